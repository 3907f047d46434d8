"""Tools whose figures are known beforehand, named in tests as "tests.explaining.tools:Same" and so on."""

from typing import ClassVar

import torch

from layersmith import catalogue
from layersmith.explaining.floors import ridge
from layersmith.explaining.tool import Explanation, Tool

KINDS = ("ffn", "mixer", "norm", "block")


class Same(Tool):
    """Explains a feed-forward by itself."""

    name, summary, kinds = "same", "The sublayer itself.", ("ffn",)

    def explain(self, observed, settings, tell):
        return Explanation(observed.module, {"rows": len(observed.inputs)})


class Nothing(Tool):
    name, summary, kinds = "nothing", "No output.", KINDS

    def explain(self, observed, settings, tell):
        return Explanation(catalogue.build({"name": "zero", "d_model": observed.inputs.shape[1]}), {"active": 3.0})


class Matrix(Tool):
    """The linear floor as a tool, with something to show."""

    name, summary, kinds = "matrix", "One matrix.", KINDS
    settings: ClassVar[dict[str, float]] = {"strength": 1e-3}
    fits = 0

    def explain(self, observed, settings, tell):
        type(self).fits += 1
        weight, bias = ridge(observed.inputs.double(), observed.outputs.double(), settings["strength"])
        module = catalogue.build({"name": "affine", "d_model": observed.inputs.shape[1]}).to(observed.inputs.device)
        with torch.no_grad():
            module.linear.weight.copy_(weight)
            module.linear.bias.copy_(bias)
        tell(1.0)
        shown = {
            "title": "<b>rows</b>",
            "text": "a < b",
            "table": {"columns": ["row", "norm"], "rows": [["<script>alert(1)</script>", 0.5]]},
            "passages": [{"label": "one", "tokens": [["<i>", 1.0], [" word", 0.2]]}],
        }
        return Explanation(module, {"matrices": 1}, {"sections": [shown]})


class Cheat(Tool):
    """Remembers the order of the calls instead of the inputs: what no control may let pass."""

    name, summary, kinds = "cheat", "The sublayer, whatever outputs it is shown.", ("ffn",)

    def explain(self, observed, settings, tell):
        return Explanation(observed.module, {})


class Broken(Tool):
    name, summary, kinds = "broken", "Infinity.", KINDS

    def explain(self, observed, settings, tell):
        module = catalogue.build({"name": "constant", "d_model": observed.inputs.shape[1]})
        with torch.no_grad():
            module.value.fill_(float("inf"))
        return Explanation(module, {})
