"""What every candidate costs on this machine at the user's shape, measured against the original in one run.

Latency depends on shapes, not on weights, so candidates that look alike (the same kind of replacement in another
layer) are timed once and share the figure: less time and less noise. Everything is timed interleaved with the
originals and with the whole model. What belongs to no site (embedding, head, residual additions) is the difference.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy.edit import Replacement, apply, restore
from layersmith.contract import Mixer, Operator, stored_bytes
from layersmith.measuring.cache import rewinder
from layersmith.measuring.calls import Call, capture_calls
from layersmith.measuring.cost import model_cost
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import Step, latency, model_inputs
from layersmith.measuring.shape import Shape
from layersmith.refitting.candidate import Candidate, Library
from layersmith.runs.workspace import Workspace

#: Budget name -> the field of a result that it bounds.
FIELDS = {"latency": "latency_ms", "params": "params", "bytes": "bytes", "flops": "flops", "kv": "kv_bytes"}

MODEL = "model"


@dataclass
class SiteCosts:
    """of_site  {site: {budget name: cost}} of the originals · total  the whole model · outside  total less sites"""

    of_site: dict[str, dict[str, float]] = field(default_factory=dict)
    total: dict[str, float] = field(default_factory=dict)

    @property
    def outside(self) -> dict[str, float]:
        return {k: v - sum(c[k] for c in self.of_site.values()) for k, v in self.total.items()}

    def of_candidate(self, candidate: Candidate) -> dict[str, float]:
        return {name: float(getattr(candidate, attribute) or 0.0) for name, attribute in FIELDS.items()}

    def limits(self, budget: dict[str, float]) -> dict[str, float]:
        """Bounds on the sum over sites, from budgets given as shares of the original's whole cost."""
        return {name: share * self.total[name] - self.outside[name] for name, share in budget.items()}

    def predicted(self, site_costs: dict[str, float]) -> dict[str, float]:
        """Whole-model figures ("latency_ms", "params", ...) for summed site costs."""
        return {attribute: site_costs[name] + self.outside[name] for name, attribute in FIELDS.items()}


def measure_costs(
    model: nn.Module, anatomy: Anatomy, library: Library, shape: Shape, workspace: Workspace, rounds: int = 15
) -> SiteCosts:
    """Fill in the cost fields of every candidate and return those of the originals."""
    saved = workspace.load_json("costs")
    if saved is None:
        saved = _measure(model, anatomy, library, shape, rounds)
        workspace.save_json("costs", saved)
    for name, cost in saved["candidates"].items():
        if name in library.candidates:
            for budget, attribute in FIELDS.items():
                value = cost[budget]
                setattr(library.candidates[name], attribute, value if budget == "latency" else int(value))
    return SiteCosts(saved["sites"], saved["total"])


def _measure(
    model: nn.Module, anatomy: Anatomy, library: Library, shape: Shape, rounds: int
) -> dict[str, dict[str, Any]]:
    sites = [s for s in anatomy.sites if s.kind != "block"]
    inputs = model_inputs(model, shape)
    paths = [p for s in anatomy.sites for p in s.modules]
    calls = capture_calls(model, paths, inputs)
    whole = model_cost(model, shape)
    kv_each = whole["kv_bytes"] / max(1, sum(s.calls for s in sites if s.kind == "mixer" and not s.cross))

    steps: dict[str, Step] = {MODEL: Step(run=lambda: model(**inputs), before=rewinder(inputs))}
    static: dict[str, dict[str, float]] = {}
    key_of: dict[str, str] = {}
    kv: dict[str, float] = {}

    def add(name: str, parts: dict[str, nn.Module]) -> None:
        """Parts that look alike are run, timed and counted once."""
        key = key_of[name] = _signature(parts)
        if key not in steps:
            steps[key] = _step(parts, calls)
            static[key] = _static_costs(parts, calls)

    for site in sites:
        add(site.name, {p: model.get_submodule(p) for p in site.modules})
        kv[site.name] = kv_each * (site.kind == "mixer" and not site.cross)
    for candidate in library.candidates.values():
        replacement = library.replacement(candidate)
        add(candidate.id, _parts_in_place(model, anatomy, candidate, replacement))
        kv[candidate.id] = _candidate_kv(anatomy, candidate, replacement, shape, kv_each)

    device, _ = placement(model)
    timings = latency(steps, rounds=rounds, warmup=2, min_seconds=2e-3, device=device)
    times = {s.name: s.calls for s in anatomy.sites}

    def cost(name: str, site: str) -> dict[str, float]:
        # A block that a model runs several times costs its time and work each time, its weights once.
        factor = times[site]
        once = static[key_of[name]]
        return {
            "latency": timings[key_of[name]].median * 1e3 * factor,
            "params": once["params"],
            "bytes": once["bytes"],
            "flops": once["flops"] * factor,
            "kv": kv[name] * factor,
        }

    total = {"latency": timings[MODEL].median * 1e3, "kv": whole["kv_bytes"]}
    total |= {name: float(whole[name]) for name in ("params", "bytes", "flops")}
    return {
        "sites": {s.name: cost(s.name, s.name) for s in sites},
        "candidates": {c.id: cost(c.id, c.site) for c in library.candidates.values()},
        "total": total,
    }


def _parts_in_place(
    model: nn.Module, anatomy: Anatomy, candidate: Candidate, replacement: Replacement
) -> dict[str, nn.Module]:
    """The modules that run for the decided sites with the candidate in place, by path."""
    edited = {edit.path for edit, _ in replacement}
    block_paths = [p for stack in anatomy.blocks.values() for p in stack if p in edited]
    paths = [p for name in candidate.sites for p in anatomy.site(name).modules]
    paths = block_paths + [p for p in paths if not any(p.startswith(b + ".") for b in block_paths)]
    before = apply(model, replacement)
    try:
        parts = {}
        for path in paths:
            module = model.get_submodule(path)
            # An edit of a matrix inside a sublayer is undone below; a copy keeps it for timing.
            inner = any(e.startswith(path + ".") for e in edited)
            parts[path] = copy.deepcopy(module) if inner else module
    finally:
        restore(model, before)
    return parts


def _step(parts: dict[str, nn.Module], calls: dict[str, Call]) -> Step:
    each = [calls[path].step(module) for path, module in parts.items()]

    def before() -> None:
        for step in each:
            step.before()

    def run() -> None:
        for step in each:
            step.run()

    return Step(run, before)


def _signature(parts: dict[str, nn.Module]) -> str:
    """Equal for modules that do the same amount of work: class names, shapes and specs, but no layer numbers."""
    described = []
    for module in parts.values():
        shapes = [(n, list(p.shape), str(p.dtype)) for n, p in [*module.named_parameters(), *module.named_buffers()]]
        specs = [m.spec() for m in module.modules() if isinstance(m, Operator)]
        described.append([type(module).__name__, shapes, specs])
    return json.dumps(described)


def _static_costs(parts: dict[str, nn.Module], calls: dict[str, Call]) -> dict[str, float]:
    modules = nn.ModuleList(dict.fromkeys(parts.values()))
    flops = 0
    for path, module in parts.items():
        step = calls[path].step(module)
        step.before()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            step.run()
        flops += counter.get_total_flops()
    return {
        "params": float(sum(p.numel() for p in modules.parameters())),
        "bytes": float(stored_bytes(modules)),
        "flops": float(flops),
    }


def _candidate_kv(
    anatomy: Anatomy, candidate: Candidate, replacement: Replacement, shape: Shape, kv_each: float
) -> float:
    """Cache bytes of the decided mixers: the operator's own state, nothing for token-wise parts, else unchanged."""
    total = 0.0
    for name in candidate.sites:
        site: Site = anatomy.site(name)
        if site.kind != "mixer" or site.cross:
            continue
        standing = [m for edit, m in replacement if site.modules[0] == edit.path]
        dropped_block = any(site.modules[0].startswith(edit.path + ".") for edit, _ in replacement)
        if standing and isinstance(standing[0], Mixer):
            total += standing[0].state_bytes(shape.tokens, shape.batch)
        elif not standing and not dropped_block:
            total += kv_each
    return total
