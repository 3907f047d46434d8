"""A sublayer as a few written equations between principal directions, found by symbolic regression.

    z = (x - m) V / s          the first `inputs` principal directions of what enters, scaled to variance 1
    u_o = f_o(z)               an equation for each of the first `outputs` principal directions of what leaves
    y = U u + n

The equation of an output is chosen from a front of error against nodes (`formulas/choice.py`). All of them together are
the part `equations`, which is judged, swapped and saved like any other.

Two controls of the paper stand in the table beside ours: `passed_on`, MLP(x) = x, its point of reference; and
`projected`, the sublayer itself between the two projections, which is what perfect equations would come to.

Paper: "SymTorch: Symbolic Distillation of Neural Networks". Differs: the engine is pyoperon, no Julia is needed. The
local equations around one input (SLIME) are the survey `slime`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.errors import UserError
from layersmith.explaining.formulas.choice import chosen, fitted, front
from layersmith.explaining.formulas.directions import Directions
from layersmith.explaining.formulas.engine import candidates, require_engine
from layersmith.explaining.sections import Section, table
from layersmith.explaining.tool import Explanation, Observed, Settings, Tool
from layersmith.ffn.shared.expressions import Tree, nodes, written

#: Share of the rows that equations are chosen on, and that the search does not see.
KEPT = 0.25


class Formula(Tool):
    name = "formula"
    summary = "Written equations between principal directions, found by symbolic regression."
    kinds = ("ffn",)
    papers = ("symtorch-symbolic-distillation-neural-networks",)
    settings: ClassVar[Settings] = {
        "inputs": 16,
        "outputs": 8,
        "rows": 1024,
        "generations": 60,
        "longest": 30,
        "seed": 0,
    }

    def check(self, settings: Settings) -> None:
        for name, least in (("inputs", 1), ("outputs", 1), ("rows", 64), ("generations", 1), ("longest", 3)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")
        require_engine()

    def explain(self, observed: Observed, settings: Settings, tell: Callable[[float], None]) -> Explanation:
        width = observed.inputs.shape[-1]
        if observed.outputs.shape[-1] != width:
            raise UserError("The site writes another width than it reads, so nothing stands in its place.")
        read = Directions.of(observed.inputs, min(settings["inputs"], width))
        write = Directions.of(observed.outputs, min(settings["outputs"], width))
        rows = _rows(len(observed.inputs), settings["rows"], settings["seed"])
        x, y = (d.into(t[rows].double().cpu()) for d, t in ((read, observed.inputs), (write, observed.outputs)))
        fronts, trees = [], []
        for output in range(y.shape[1]):
            found = _front(x, y[:, output], settings)
            fronts.append(found)
            trees.append(chosen(found)[1])
            tell((output + 1) / y.shape[1])
        module = _module(width, trees, read, write).to(observed.inputs.device)
        size = {"nodes": float(sum(nodes(tree) for tree in trees)), "active": float(len(trees))}
        controls = {
            "passed_on": catalogue.build({"name": "identity", "d_model": width}),
            "projected": Projected(observed.module, read, write),
        }
        pages = {"equations": trees, "fronts": fronts, "sections": _sections(fronts, trees, read, write)}
        return Explanation(module, size, pages, controls)


class Projected(nn.Module):
    """The sublayer itself with only the principal directions of what enters and of what leaves it."""

    def __init__(self, original: nn.Module, read: Directions, write: Directions):
        super().__init__()
        self._original = (original,)
        self._directions = (read, write)

    def forward(self, x: Tensor) -> Tensor:
        read, write = self._directions
        rows = x.reshape(-1, x.shape[-1]).double().cpu()
        y = self._original[0](read.back(read.into(rows)).to(x).reshape(x.shape))
        y = y[0] if isinstance(y, tuple | list) else y
        return write.back(write.into(y.reshape(rows.shape).double().cpu())).to(x).reshape(x.shape)


def _rows(count: int, wanted: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed), device="cpu")[:wanted]


def _front(x: Tensor, y: Tensor, settings: Settings) -> list[tuple[float, Tree]]:
    """The front of one output, on rows that neither the search nor the fit of the numbers saw; 0 is always on it."""
    kept = max(1, int(KEPT * len(x)))
    seen, told = x[kept:], y[kept:]
    trees = candidates(seen.numpy(), told.numpy(), settings["generations"], settings["longest"], settings["seed"])
    return front([0.0, *(fitted(tree, seen, told) for tree in trees)], x[:kept], y[:kept])


def _module(width: int, trees: list[Tree], read: Directions, write: Directions) -> nn.Module:
    spec = {"name": "equations", "d_model": width, "inputs": read.axes.shape[1], "equations": trees}
    module: Any = catalogue.build(spec)
    with torch.no_grad():
        into = (read.axes / read.spread).T
        module.read.weight.copy_(into)
        module.read.bias.copy_(-into @ read.mean)
        module.write.weight.copy_(write.axes * write.spread)
        module.write.bias.copy_(write.mean)
    return module


def _sections(
    fronts: list[list[tuple[float, Tree]]], trees: list[Tree], read: Directions, write: Directions
) -> list[Section]:
    rows = [
        [f"u{output}", nodes(tree), next(wrong for wrong, each in found if each is tree), written(tree)]
        for output, (found, tree) in enumerate(zip(fronts, trees, strict=True))
    ]
    text = (
        f"x0, x1, ... are the principal directions of what enters ({read.explained:.1%} of its variance), u0, u1, ... "
        f"those of what leaves ({write.explained:.1%}), all scaled to variance 1. Error: mean squared error over the "
        f"variance, on rows that the search did not see."
    )
    steps = [
        [f"u{output}", nodes(tree), wrong, written(tree)]
        for output, found in enumerate(fronts)
        for wrong, tree in found
    ]
    columns = ("output", "nodes", "error", "equation")
    return [
        table("The equations", columns, rows, text),
        table(
            "Error against nodes", columns, steps, "Every equation that no other beats in both; one of them is taken."
        ),
    ]
