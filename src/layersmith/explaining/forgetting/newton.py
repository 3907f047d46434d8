"""L-CODEC unlearning: one Newton step that takes samples out, on those rows of weights that their loss depends on.

With n samples of which m go, at a minimum of the loss of all,

    theta_P <- theta_P + m / (n - m) (H_P + lambda I)^-1 g_P

g the gradient of the mean loss of what goes, H the Hessian of the mean loss of what stays, P the chosen weights. Which
ones: the prompts of what goes are spoilt at random, one token each; the loss and every unit's mean output are recorded;
those units are chosen whose outputs the loss depends on (`codec.py`), and P is their rows of weights.

Paper: "Deep Unlearning via Randomized Conditionally Independent Hessians" (confirmed in the released code: units of
linear maps, mean outputs, one replaced token, samples taken out together).
Differs from the paper: products with the Hessian are exact and the system is solved by conjugate gradients, up to a
direction of negative curvature, where the code takes differences of two training steps; no noise is added at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from layersmith.anatomy import Site
from layersmith.explaining.forgetting.codec import chosen
from layersmith.explaining.forgetting.facts import SUBJECT
from layersmith.explaining.forgetting.scene import Scene

#: Spoilt runs that units are chosen by; units chosen at most; lambda; steps of the solver.
RUNS, MOST, DAMPING, ITERATIONS = 64, 32, 1e-3, 20


@dataclass(frozen=True)
class Unit:
    """One output of a linear map: the module's path and its row."""

    path: str
    row: int


def codec_newton(model: nn.Module, scene: Scene) -> int:
    """Returns the steps taken: 1, or 0 where no unit was found or the loss bends nowhere upwards."""
    maps = linear_maps(model, scene.sites)
    outputs, losses = spoilt(model, scene, maps)
    units = [Unit(path, row) for path in maps for row in range(maps[path].out_features)]
    rows = [units[index] for index in chosen(losses, outputs, MOST)]
    masks = masks_of(maps, rows)
    if not masks:
        return 0
    facts, parameters = scene.facts, list(masks)
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    step = removal(
        lambda: facts.loss(model, facts.forget),
        lambda: facts.loss(model, facts.retain),
        parameters,
        [masks[parameter] for parameter in parameters],
        share=facts.forgotten / (len(facts.prompts) - facts.forgotten),
    )
    with torch.no_grad():
        for parameter, move in zip(parameters, step, strict=True):
            parameter.add_(move)
    return int(any(bool(move.any()) for move in step))


def linear_maps(model: nn.Module, sites: Sequence[Site]) -> dict[str, nn.Linear]:
    """Path -> linear map inside the sites."""
    inside = tuple(path for site in sites for path in site.modules)
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(path == own or path.startswith(f"{own}.") for own in inside)
    }


@torch.no_grad()
def spoilt(model: nn.Module, scene: Scene, maps: dict[str, nn.Linear]) -> tuple[Tensor, Tensor]:
    """(RUNS, units) mean outputs of all units, map by map, and (RUNS,) losses, of what goes with one token replaced.

    Of a map that is not called in a run (an expert without tokens, say) they are 0.
    """
    facts, generator = scene.facts, scene.generator()
    names = facts.prompts[:, :SUBJECT].flatten()
    means: dict[str, Tensor] = {}

    def keeper(path: str) -> Any:
        def keep(module: Any, args: Any, output: Tensor) -> None:
            means[path] = output.detach().float().flatten(0, -2).mean(0)

        return keep

    handles = [module.register_forward_hook(keeper(path)) for path, module in maps.items()]
    outputs, losses = [], []
    try:
        for run in range(RUNS):
            prompts = facts.prompts.clone()
            where = torch.randint(SUBJECT, (facts.forgotten,), generator=generator, device="cpu")
            new = torch.randint(len(names), (facts.forgotten,), generator=generator, device="cpu")
            prompts[torch.arange(facts.forgotten), where.to(prompts.device)] = names[new.to(names.device)]
            means.clear()
            losses.append(replace(facts, prompts=prompts).loss(model, facts.forget))
            idle = {path: losses[-1].new_zeros(maps[path].out_features) for path in maps.keys() - means.keys()}
            outputs.append(torch.cat([(means | idle)[path] for path in maps]))
            scene.tell("choosing weights", run + 1, RUNS)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(outputs), torch.stack(losses)


def masks_of(maps: dict[str, nn.Linear], units: Sequence[Unit]) -> dict[Tensor, Tensor]:
    """Parameter -> 1 at the rows of the units, 0 elsewhere; of weights and biases that hold any."""
    masks: dict[Tensor, Tensor] = {}
    for unit in units:
        for parameter in (maps[unit.path].weight, maps[unit.path].bias):
            if parameter is not None:
                masks.setdefault(parameter, torch.zeros_like(parameter))[unit.row] = 1.0
    return masks


def removal(
    goes: Callable[[], Tensor],
    stays: Callable[[], Tensor],
    parameters: list[Tensor],
    masks: list[Tensor],
    share: float,
    damping: float = DAMPING,
    iterations: int = ITERATIONS,
) -> list[Tensor]:
    """The step for each parameter: share (H + damping I)^-1 g inside the masks, 0 outside.

    goes, stays  mean losses of what is taken out and of what is left
    share        how many are taken out, over how many are left
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
        gradient = _masked(torch.autograd.grad(goes(), parameters, allow_unused=True), masks)
        slopes = torch.autograd.grad(stays(), parameters, create_graph=True, allow_unused=True)
        bent = [slope is not None and slope.requires_grad for slope in slopes]

        def product(v: list[Tensor]) -> list[Tensor]:
            curved: Sequence[Tensor | None] = [None] * len(v)
            if any(bent):
                along = torch.stack([(s * each).sum() for s, each, on in zip(slopes, v, bent, strict=True) if on]).sum()
                curved = torch.autograd.grad(along, parameters, retain_graph=True, allow_unused=True)
            return [h + damping * each for h, each in zip(_masked(curved, masks), v, strict=True)]

        solved = conjugate_gradients(product, gradient, iterations)
    return [share * each for each in solved]


def conjugate_gradients(
    product: Callable[[list[Tensor]], list[Tensor]], target: list[Tensor], iterations: int
) -> list[Tensor]:
    """The solution of product(x) = target as far as it gets; it ends at a direction of no positive curvature."""
    x = [torch.zeros_like(t) for t in target]
    rest = [t.clone() for t in target]
    way = [t.clone() for t in target]
    size = first = _dot(rest, rest)
    for _ in range(iterations):
        if size <= 1e-20 * first or size == 0:
            break
        forth = product(way)
        curvature = _dot(way, forth)
        if curvature <= 0:
            break
        length = size / curvature
        x = [each + length * w for each, w in zip(x, way, strict=True)]
        rest = [each - length * f for each, f in zip(rest, forth, strict=True)]
        new = _dot(rest, rest)
        way = [each + new / size * w for each, w in zip(rest, way, strict=True)]
        size = new
    return x


def _masked(gradients: Sequence[Tensor | None], masks: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(m) if g is None else g.detach() * m for g, m in zip(gradients, masks, strict=True)]


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))
