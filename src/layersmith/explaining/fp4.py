"""Which weights bear four bits: one component, or one block, at a time in a 4-bit float format, the rest as it is.

A *component* is all weight matrices of one name (`self_attn.q_proj`) in all blocks, a *block* all matrices of one. Told
is how far the model's predictions move on held-out text with these in NVFP4 or MXFP4 and nothing else changed, and
beside it how large the error of the weights themselves is; the two need not agree.

Paper: "Diagnosing FP4 inference: a layer-wise and block-wise sensitivity analysis of NVFP4 and MXFP4". Differs: weights
alone are rounded, inputs are not, and the divergence from the model's own predictions stands for perplexity, so that
models without a next token can be looked at as well.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from layersmith.anatomy.edit import Edit, apply, restore
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.sections import Column, Section, heat_map
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.linear.fp4 import BLOCKS, FP4Linear
from layersmith.measuring.divergence import Divergence, Expected, real_positions, run

EVERYTHING = "everything"
#: Where a matrix is -> it.
Places = dict[str, Any]


class FP4Map(Survey):
    name = "fp4"
    summary = "Which components and which blocks bear a 4-bit float format (NVFP4, MXFP4) of their weights."
    papers = ("diagnosing-fp4-inference",)
    settings: ClassVar[Settings] = {"format": "nvfp4"}

    def check(self, settings: Settings) -> None:
        if settings["format"] not in BLOCKS:
            raise UserError(f"The setting format must be one of {', '.join(BLOCKS)}, not {settings['format']!r}.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        fitting, skipped = matrices(subject, BLOCKS[settings["format"]])
        if not fitting:
            raise UserError(
                f"No weight matrix in this model's blocks has an input width that a block of {settings['format']} "
                f"({BLOCKS[settings['format']]} inputs) divides. The other format has blocks of another size."
            )
        components, blocks = grouped(subject, fitting)
        cases = {**components, **blocks, EVERYTHING: fitting}
        parts = {path: _rounded(module, settings["format"]) for path, module in fitting.items()}
        moved = _moved(subject, {name: {path: parts[path] for path in places} for name, places in cases.items()})
        found = {name: {"divergence": moved[name], **_errors(places, parts)} for name, places in cases.items()}
        result = {
            "format": settings["format"],
            "components": {name: found[name] for name in components},
            "blocks": {name: found[name] for name in blocks},
            "everything": found[EVERYTHING],
            "skipped": skipped,
        }
        return {**result, "sections": _sections(result)}


def matrices(subject: Subject, width: int) -> tuple[Places, list[str]]:
    """Weight matrices inside blocks whose input width `width` divides, by path; and the paths of the others.

    Those that the model calls: nothing can stand for one whose weight its code reads by itself.
    """
    found: Places = {}
    for site in subject.anatomy.of_kind("block"):
        top = subject.model.get_submodule(site.modules[0])
        for name, module in top.named_modules():
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                found[f"{site.modules[0]}.{name}"] = module
    found = _called(subject, found)
    skipped = [path for path, module in found.items() if weight_of(module).shape[1] % width]
    return {path: module for path, module in found.items() if path not in skipped}, skipped


def _called(subject: Subject, places: Places) -> Places:
    """Those of the modules that run on a batch."""
    seen: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda module, given, path=path: seen.add(path))
        for path, module in places.items()
    ]
    try:
        with evaluating(subject.model):
            run(subject.model, subject.judge[0])
    finally:
        for hook in hooks:
            hook.remove()
    return {path: module for path, module in places.items() if path in seen}


def weight_of(module: Any) -> Tensor:
    """(d_out, d_in) of an `nn.Linear`, or of a `Conv1D`, whose weight is transposed."""
    weight: Tensor = module.weight.detach()
    return weight if isinstance(module, nn.Linear) else weight.T


def grouped(subject: Subject, places: Places) -> tuple[dict[str, Places], dict[str, Places]]:
    """The matrices by their name inside a block, and by their block."""
    components: dict[str, Places] = {}
    blocks: dict[str, Places] = {}
    for site in subject.anatomy.of_kind("block"):
        for path, module in places.items():
            if path.startswith(f"{site.modules[0]}."):
                components.setdefault(path.removeprefix(f"{site.modules[0]}."), {})[path] = module
                blocks.setdefault(site.name, {})[path] = module
    return components, blocks


def _rounded(module: Any, format: str) -> FP4Linear:
    weight = weight_of(module)
    part: FP4Linear = FP4Linear.from_weight(weight.contiguous(), format, module.bias).to(weight.dtype).eval()
    return part


def _errors(places: Places, parts: dict[str, FP4Linear]) -> dict[str, float]:
    """The relative squared error of these weights, and how many there are."""
    wrong = total = 0.0
    for path, module in places.items():
        weight = weight_of(module).double()
        wrong += float((parts[path].dense_weight().double() - weight).square().sum())
        total += float(weight.square().sum())
    weights = sum(weight_of(module).numel() for module in places.values())
    return {"weight_error": wrong / max(total, 1e-30), "weights": weights}


def _moved(subject: Subject, cases: dict[str, dict[str, FP4Linear]]) -> dict[str, float]:
    """Case -> divergence over the judge batches. Finished batches are read back from the workspace."""
    done = []
    for index, batch in enumerate(subject.judge):
        found = subject.workspace.load_json(f"fp4/{index:04d}")
        if found is None:
            with evaluating(subject.model):
                found = _on_batch(subject, cases, batch)
            subject.workspace.save_json(f"fp4/{index:04d}", found)
        done.append(found)
        subject.tell("rounding to four bits", index + 1, len(subject.judge))
    tokens = sum(each["tokens"] for each in done)
    return {name: sum(each["moved"][name] * each["tokens"] for each in done) / tokens for name in cases}


def _on_batch(subject: Subject, cases: dict[str, dict[str, FP4Linear]], batch: dict[str, Tensor]) -> dict[str, Any]:
    expected, moved, tokens = Expected(run(subject.model, batch), real_positions(batch)), {}, 0
    for name, parts in cases.items():
        distance = Divergence()
        before = apply(subject.model, [(Edit(path, part.spec(), {}), part) for path, part in parts.items()])
        try:
            student = run(subject.model, batch)
        finally:
            restore(subject.model, before)
        distance.add_to(expected, student)
        moved[name], tokens = distance.value, distance.tokens
    return {"tokens": tokens, "moved": moved}


def _sections(found: dict[str, Any]) -> list[Section]:
    columns = [
        Column("predictions move", "divergence from the model's own predictions", log=True),
        Column("weights move", "relative squared error of the weights"),
    ]
    left = f" {len(found['skipped'])} matrices of other widths stay as they are." if found["skipped"] else ""
    text = (
        f"{found['format']}, one row at a time; everything at once: {found['everything']['divergence']:.3g}."
        f"{left} The most sensitive first."
    )

    def ranked(cases: dict[str, dict[str, float]]) -> list[tuple[str, list[float | None]]]:
        order = sorted(cases.items(), key=lambda case: -case[1]["divergence"])
        return [(name, [case["divergence"], case["weight_error"]]) for name, case in order]

    return [
        heat_map("Component by component", columns, ranked(found["components"]), text),
        heat_map("Block by block", columns, ranked(found["blocks"]), text),
    ]
