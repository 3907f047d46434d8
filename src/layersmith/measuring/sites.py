"""What every site of a model costs where it stands: parameters, FLOPs and time, beside the whole model's."""

from __future__ import annotations

from typing import Any

from torch import nn

from layersmith.anatomy.site import Anatomy, Site
from layersmith.measuring.cache import rewinder
from layersmith.measuring.calls import capture_calls
from layersmith.measuring.cost import count_params, module_flops
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import Step, Timing, latency, model_inputs, ratio
from layersmith.measuring.shape import Shape

#: Key of the whole model's own time beside the sites' in `site_latency`.
MODEL = "model"


def site_costs(
    model: nn.Module, anatomy: Anatomy, shape: Shape, rounds: int = 10, seed: int = 0
) -> list[dict[str, Any]]:
    """One JSON-serialisable row per site, in execution order.

    name, kind, modules, calls, d_model   from the anatomy
    shapes           parameter name -> shape, of the site's own parameters
    params           parameters, shared ones counted once
    flops            in one step of the model at the shape, over all `calls`; `flops_share` of the model's
    latency_ms       median over rounds, over all `calls`; `latency_share` of the model's own time in the same rounds
    latency_ms_spread  lower and upper quartile over rounds

    A block's row contains its sublayers, so shares of one kind may be added up, those of all rows may not.
    """
    inputs = model_inputs(model, shape, seed)
    timings = site_latency(model, anatomy, shape, rounds=rounds, seed=seed)
    flops = module_flops(model, inputs)
    rows = []
    for site in anatomy.sites:
        modules = [model.get_submodule(path) for path in site.modules]
        site_flops = sum(flops.get(path, 0) for path in site.modules)
        rows.append(
            {
                "name": site.name,
                "kind": site.kind,
                "modules": list(site.modules),
                "calls": site.calls,
                "d_model": site.d_model,
                "shapes": _shapes(model, site),
                "params": count_params(nn.ModuleList(modules)),
                "flops": site_flops,
                "flops_share": site_flops / flops[""] if flops[""] else 0.0,
                "latency_ms": timings[site.name].median * 1e3,
                "latency_ms_spread": [timings[site.name].p25 * 1e3, timings[site.name].p75 * 1e3],
                "latency_share": ratio(timings, site.name, MODEL),
            }
        )
    return rows


def site_latency(
    model: nn.Module, anatomy: Anatomy, shape: Shape, rounds: int = 10, warmup: int = 2, seed: int = 0
) -> dict[str, Timing]:
    """Seconds of every site in one step of the model at a shape, under its name; the model's own under "model".

    A site that runs several times in a step (a shared block) is timed once and counted `calls` times. A block's
    time contains that of its sublayers. What does not run in the step (an encoder, while the decoder writes) takes 0.
    """
    inputs = model_inputs(model, shape, seed)
    paths = [path for site in anatomy.sites for path in site.modules]
    calls = capture_calls(model, paths, inputs, must_run=False)
    steps = {MODEL: Step(run=lambda: model(**inputs), before=rewinder(inputs))}
    for site in anatomy.sites:
        parts = [calls[path].step(model.get_submodule(path)) for path in site.modules if path in calls]
        if parts:
            steps[site.name] = _in_turn(parts)
    device, _ = placement(model)
    timings = latency(steps, rounds=rounds, warmup=warmup, seed=seed, device=device)
    idle = Timing(0.0, 0.0, 0.0, rounds, (0.0,) * rounds)
    of_sites = {site.name: _scaled(timings.get(site.name, idle), site.calls) for site in anatomy.sites}
    return {MODEL: timings[MODEL], **of_sites}


def _in_turn(parts: list[Step]) -> Step:
    """The modules of one site as one step (a feed-forward written out as fc1, activation, fc2)."""
    if len(parts) == 1:
        return parts[0]

    def before() -> None:
        for part in parts:
            part.before()

    def run() -> None:
        for part in parts:
            part.run()

    return Step(run, before)


def _scaled(timing: Timing, factor: int) -> Timing:
    samples = tuple(factor * s for s in timing.samples)
    return Timing(factor * timing.median, factor * timing.p25, factor * timing.p75, timing.n, samples)


def _shapes(model: nn.Module, site: Site) -> dict[str, list[int]]:
    if site.kind == "block":
        return {}  # its sublayers' rows say it
    several = len(site.modules) > 1
    return {
        f"{path.rpartition('.')[2]}.{name}" if several else name: list(parameter.shape)
        for path in site.modules
        for name, parameter in model.get_submodule(path).named_parameters()
    }
