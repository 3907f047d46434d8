"""What every candidate costs on this machine at the user's shape, measured against the original in one run.

Latency depends on shapes, not on weights, so candidates that look alike (the same kind of replacement in another
layer) are timed once and share the figure: less time and less noise. At prefill everything is timed by itself,
interleaved with the originals and with the whole model; in decode, where it stands (`in_place`). What belongs to no
site (embedding, residual additions) is the difference.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy.head import is_tied
from layersmith.anatomy.twin import twin
from layersmith.checkpoint.dtypes import StoredDtypes, source_dtypes, stored_dtypes
from layersmith.contract import Operator
from layersmith.cost import NOTHING, Cost
from layersmith.errors import UserError
from layersmith.measuring.cache import rewinder, share_tensors
from layersmith.measuring.calls import Call, capture_calls
from layersmith.measuring.cost import Prompt, bytes_as_stored, cost_of, read
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import Step, latency
from layersmith.measuring.shape import Shape
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.cleared import Missing
from layersmith.refitting.score.in_place import Gains, seconds_inside
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.runs.workspace import Workspace

MODEL = "model"
#: Attributes that number a layer and say nothing of its work.
NUMBERS = ("layer_idx", "layer_id", "layer_index", "layer_number", "idx", "training")


def measure_costs(
    model: nn.Module,
    anatomy: Anatomy,
    library: Library,
    shape: Shape,
    workspace: Workspace,
    rounds: int = 15,
    *,
    earlier: SiteCosts | None = None,
) -> SiteCosts:
    """Fill in the cost of every candidate and return those of the originals.

    earlier  what this returned for other candidates. These are then costed on the same scale: the originals are timed
             beside them again, and a machine that has become slower has become so for both.
    """
    name = "costs" if earlier is None else "costs-of-chains"
    saved = workspace.load_json(name)
    if saved is None:
        saved = _measure(model, anatomy, library, shape, rounds)
        workspace.save_json(name, saved)
    total = Cost.from_json(saved["total"])
    scale = 1.0 if earlier is None else earlier.total.of("latency") / total.of("latency")
    for candidate in library.candidates.values():
        if candidate.id in saved["candidates"]:
            cost = Cost.from_json(saved["candidates"][candidate.id])
            candidate.cost = replace(cost, latency_ms=cost.of("latency") * scale)
        elif candidate.refused is None:
            candidate.refused = saved["refused"].get(candidate.id, "its cost was not measured")
    return earlier or SiteCosts(
        {s: Cost.from_json(c) for s, c in saved["sites"].items()},
        total,
        Cost.from_json(saved["by_dtype"]),
    )


def counted(model: nn.Module, anatomy: Anatomy, shape: Shape) -> SiteCosts:
    """What the originals cost apart from time, as `measure_costs` has it."""
    bench = _Bench(model, anatomy, shape)
    for site in anatomy.smallest():
        bench.add_original(site.name)
    return SiteCosts({site.name: bench.cost(site.name, site) for site in anatomy.smallest()}, *bench.whole())


def _measure(
    model: nn.Module, anatomy: Anatomy, library: Library, shape: Shape, rounds: int
) -> dict[str, dict[str, Any]]:
    sites = anatomy.smallest()
    bench = _Bench(model, anatomy, shape)
    for site in sites:
        bench.add_original(site.name)
    refused: dict[str, str] = {}
    for candidate in library.candidates.values():
        try:
            bench.add_candidate(candidate, library)
            bench.site_of[candidate.id] = candidate.site
        except Missing:
            raise
        except UserError as reason:  # a mixer that cannot go on from a state, say
            refused[candidate.id] = str(reason)
    seconds = (_in_place if shape.phase == "decode" else _by_itself)(bench, library, rounds)

    def timed(cost: Cost, name: str) -> dict[str, Any]:
        return replace(cost, latency_ms=seconds[name] * 1e3).to_json()

    candidates = [c for c in library.candidates.values() if c.id not in refused]
    total, by_dtype = bench.whole()
    return {
        "sites": {s.name: timed(bench.cost(s.name, s), s.name) for s in sites},
        "candidates": {c.id: timed(bench.cost(c.id, anatomy.site(c.site)), c.id) for c in candidates},
        "refused": refused,
        "total": timed(total, MODEL),
        "by_dtype": by_dtype.to_json(),
    }


def _by_itself(bench: _Bench, library: Library, rounds: int) -> dict[str, float]:
    """Seconds of the model, and of each site and candidate over all its calls, timed alone with its captured call."""
    device, _ = placement(bench.model)
    timings = latency(bench.steps, rounds=rounds, warmup=2, min_seconds=2e-3, device=device)
    once = {key: timing.median for key, timing in timings.items()}
    seconds = {MODEL: once[MODEL]}
    for name, site in bench.site_of.items():
        seconds[name] = once.get(bench.key_of[name], 0.0) * bench.anatomy.site(site).calls
    return seconds


def _in_place(bench: _Bench, library: Library, rounds: int) -> dict[str, float]:
    """The same, measured inside whole steps; what does not run in a step takes nothing."""
    device, _ = placement(bench.model)
    whole = latency({MODEL: bench.steps[MODEL]}, rounds=rounds, warmup=2, device=device)[MODEL].median
    originals = [name for name, site in bench.site_of.items() if name == site]
    paths = [path for name in originals for path in bench.anatomy.site(name).modules]
    inside = seconds_inside(bench.model, paths, bench.prompt.step, rounds, device)
    of_site = {n: sum(inside.get(path, 0.0) for path in bench.anatomy.site(n).modules) for n in originals}
    gains = Gains(bench.model, bench.shape, bench.prompt, library)
    alike: dict[str, list[Candidate]] = {}
    for name in (name for name in bench.site_of if name not in of_site):
        alike.setdefault(bench.key_of[name], []).append(library.candidates[name])
    seconds = {MODEL: whole, **of_site}
    for key, candidates in alike.items():
        gained = gains.seconds(candidates, rounds, device) if key in bench.steps else 0.0
        for candidate in candidates:
            before = sum(of_site.get(site, 0.0) for site in candidate.sites)
            seconds[candidate.id] = max(0.0, before + gained)
    return seconds


class _Bench:
    """Everything that is to be timed in turns; what looks alike stands on it once.

    steps    key -> the step that is timed; none for what does not run at this shape (an encoder in decode)
    counted  key -> what it costs apart from time
    key_of   site or candidate -> its key
    site_of  site or candidate -> the site it is, or stands at
    tied     heads, originals and candidates, whose weight is the embedding's
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, shape: Shape):
        self.model, self.anatomy, self.shape = model, anatomy, shape
        paths = [path for site in anatomy.sites for path in site.modules]
        self.prompt = read(model, shape, paths)
        self.calls = capture_calls(model, paths, self.prompt.step, must_run=False)
        self.dtypes = stored_dtypes(model)
        whole = Step(lambda: model(**self.prompt.step), rewinder(self.prompt.step))
        self.steps = {MODEL: whole}
        self.counted = {MODEL: cost_of({"": model}, whole, self.prompt.kv_bytes, self.dtypes)}
        self.key_of: dict[str, str] = {}
        self.site_of: dict[str, str] = {}
        self.tied: set[str] = set()

    def add_original(self, site: str) -> None:
        parts = {path: self.model.get_submodule(path) for path in self.anatomy.site(site).modules}
        key = self.key_of[site] = _signature(parts, self.calls, self.dtypes)
        self.site_of[site] = site
        self._note_tied(site, site, self.model)
        if key not in self.counted:
            self._add(key, parts, self.calls, self.prompt)

    def add_candidate(self, candidate: Candidate, library: Library) -> None:
        replacement = library.replacement(candidate)
        edited = twin(self.model, replacement)
        paths = _paths(self.anatomy, candidate, [edit.path for edit, _ in replacement])
        parts = {path: edited.get_submodule(path) for path in paths}
        key = self.key_of[candidate.id] = _signature(parts, self.calls, self.dtypes)
        self._note_tied(candidate.id, candidate.site, edited)
        if key in self.counted:
            return
        if not self._keeps_something(candidate):
            self._add(key, parts, self.calls, Prompt(self.prompt.step, 0, dict.fromkeys(paths, 0)))
            return
        # What a mixer finds in the cache, and leaves there, is its own: the changed model has to read the prompt.
        prompt = read(edited, self.shape, paths)
        share_tensors(prompt.step, self.prompt.step)
        decodes = self.shape.phase == "decode"
        calls = capture_calls(edited, paths, prompt.step, must_run=False) if decodes else self.calls
        self._add(key, parts, calls, prompt)

    def whole(self) -> tuple[Cost, Cost]:
        """Of the whole model as its source is stored, and what the dtypes of the result save of that."""
        kept = self.counted[MODEL]
        source = bytes_as_stored({"": self.model}, source_dtypes(self.model))
        return replace(kept, weight_bytes=source), replace(NOTHING, weight_bytes=source - kept.weight_bytes)

    def cost(self, name: str, site: Site) -> Cost:
        """Of a site or a candidate there, apart from time.

        A block that a model runs several times costs its work each time, its weights once. What it keeps was measured
        over all its runs. A tied head's weights are the embedding's, which stays whatever stands at the head.
        """
        once = self.counted[self.key_of[name]]
        every = replace(once, flops=once.flops * site.calls)
        return replace(every, params=0, weight_bytes=0) if name in self.tied else every

    def _note_tied(self, name: str, site: str, model: nn.Module) -> None:
        found = self.anatomy.site(site)
        if found.kind == "head" and is_tied(model, found):
            self.tied.add(name)

    def _keeps_something(self, candidate: Candidate) -> bool:
        sites = [self.anatomy.site(name) for name in candidate.sites]
        return any(s.kind == "mixer" or any(self.prompt.made[path] for path in s.modules) for s in sites)

    def _add(self, key: str, parts: dict[str, nn.Module], calls: dict[str, Call], prompt: Prompt) -> None:
        step = _step({path: module for path, module in parts.items() if path in calls}, calls)
        if parts.keys() & calls.keys():
            self.steps[key] = step
        self.counted[key] = cost_of(parts, step, sum(prompt.made[path] for path in parts), self.dtypes)


def _paths(anatomy: Anatomy, candidate: Candidate, edited: list[str]) -> list[str]:
    """The modules that run for the decided sites with the candidate in place."""
    blocks = [path for stack in anatomy.blocks.values() for path in stack if path in edited]
    paths = [path for name in candidate.sites for path in anatomy.site(name).modules]
    return blocks + [path for path in paths if not any(path.startswith(f"{block}.") for block in blocks)]


def _step(parts: dict[str, nn.Module], calls: dict[str, Call]) -> Step:
    each = [calls[path].step(module) for path, module in parts.items()]

    def before() -> None:
        for step in each:
            step.before()

    def run() -> None:
        for step in each:
            step.run()

    return Step(run, before)


def _signature(parts: dict[str, nn.Module], calls: dict[str, Call], dtypes: StoredDtypes) -> str:
    """Equal for modules that do the same amount of work: classes, shapes, dtypes, specs, settings and what is given.

    Settings are plain attributes. Those that differ from layer to layer (a window, a kind of layer) change the work;
    the number of the layer does not.
    """
    described = []
    for path, module in parts.items():
        tensors = [*module.named_parameters(), *module.named_buffers()]
        shapes = [
            (name, list(tensor.shape), str(tensor.dtype), str(dtypes.of(f"{path}.{name}", tensor)))
            for name, tensor in tensors
        ]
        specs = [m.spec() for m in module.modules() if isinstance(m, Operator)]
        settings = [[type(m).__name__, _settings(m)] for m in module.modules()]
        given = _shapes([calls[path].args, calls[path].kwargs]) if path in calls else None
        described.append([type(module).__name__, shapes, specs, settings, given])
    return json.dumps(described)


def _settings(module: nn.Module) -> dict[str, Any]:
    found = {name: _setting(value) for name, value in sorted(vars(module).items()) if not name.startswith("_")}
    return {name: value for name, value in found.items() if value is not None and name not in NUMBERS}


def _setting(value: Any) -> Any:
    """A setting in words that are the same in every process; None for what is none: a module, a tensor, an object."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | Enum):
        return repr(value)
    if isinstance(value, dict):
        return [[repr(name), _setting(each)] for name, each in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [_setting(each) for each in value]
    return value.__qualname__ if isinstance(value, FunctionType | BuiltinFunctionType) else None


def _shapes(value: Any) -> Any:
    """The shapes of all tensors among a call's arguments; caches and other objects are left out."""
    if isinstance(value, Tensor):
        return list(value.shape)
    if isinstance(value, list | tuple):
        return [_shapes(v) for v in value]
    if isinstance(value, dict):
        return {name: _shapes(v) for name, v in value.items()}
    return type(value).__name__
