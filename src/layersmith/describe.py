"""What is known about a part or a paper, as `layersmith show` prints it and the documentation's pages show it.

The catalogue knows parts and papers, the methods know what they build, the evidence knows what was verified; here it
comes together, in plain values. How it looks is the business of the command and of the pages.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from layersmith import catalogue, evidence
from layersmith.contract import Cost, Operator, Scheme
from layersmith.errors import UserError
from layersmith.evidence import Claim, Outcomes
from layersmith.papers import Paper, papers
from layersmith.refitting import methods

COST_COLUMNS = ("params", "active per token", "bytes", "FLOPs", "bytes of state")
#: Stops "When it pays:" in a docstring: the next of its headings, or the end of the paragraph.
PAYS = re.compile(r"When\s+it\s+pays:\s+(.*?)(?=\s(?:Papers?|Differs from [^:.]*): |\n\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Builder:
    """A method that puts a part in place, with what its docstring says about when that pays."""

    method: str
    pays: str
    saves: tuple[str, ...]

    @property
    def command(self) -> str:
        return f"layersmith refit MODEL --methods {self.method} …"

    @property
    def offered(self) -> str:
        """When a run uses the method without being told to."""
        if not self.saves:
            return "only when named"
        *first, last = self.saves
        return f"for a budget of {', '.join(first)}{' or ' if first else ''}{last}"


@dataclass(frozen=True)
class Standing:
    """Where a paper stands: the parts and methods that name it, and the claims measured."""

    parts: tuple[str, ...]
    methods: tuple[str, ...]
    claims: tuple[tuple[str, Claim], ...]


def spec_of(name: str, d_model: int | None = None, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The spec of the part's example, every width of which is scaled so that the (input) width is d_model.

    config  constructor arguments that stand over the example's
    """
    example = catalogue.entry(name).example
    if d_model is not None:
        if d_model < 1:
            raise UserError(f"--d-model must be at least 1, not {d_model}.")
        if not {"d_in", "d_model"} & example.keys():
            raise UserError(f"{name} has no width of its own: it takes that of the model it is applied to.")
        base = example["d_in"] if "d_in" in example else example["d_model"]
        example = {key: value * d_model // base if key.startswith("d_") else value for key, value in example.items()}
    return {"name": name, **example, **(config or {})}


def arguments(name: str) -> str:
    """The docstring of the part's class without its worked example: what its constructor takes."""
    return _class_docstring(name)[0]


def worked_example(name: str) -> str:
    """The worked example at the end of that docstring: paragraphs of prose and of doctest lines; "" without one."""
    return _class_docstring(name)[1]


def _class_docstring(name: str) -> tuple[str, str]:
    told, _, example = (inspect.getdoc(catalogue.resolve(name)) or "").partition("\n\nWorked example. ")
    return told, example


def cost_table(part: Operator, batch: int, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """("name (sizes)", figures under `COST_COLUMNS`): the part, then the usual parts of the same widths beside it."""
    yield part.spec()["name"], _figures(part.cost(batch, tokens))
    for usual in _usual(part.spec(), part.family):
        if usual["name"] != part.name:
            sizes = ", ".join(f"{key} {value}" for key, value in usual.items() if key != "name")
            yield f"{usual['name']} ({sizes})", _figures(catalogue.build(usual).cost(batch, tokens))


def _figures(cost: Cost) -> tuple[int, ...]:
    return cost.params, cost.active_params, cost.weight_bytes, cost.flops, cost.state_bytes


def _usual(spec: dict[str, Any], family: str) -> list[dict[str, Any]]:
    if family == "ffn":
        widths = {"d_model": spec["d_model"], "d_hidden": _hidden_width(spec)}
        return [{"name": "mlp", **widths}, {"name": "glu", **widths}]
    if family == "norm":
        return [{"name": name, "d_model": spec["d_model"]} for name in ("layer_norm", "rms_norm")]
    if family == "mixer":
        return [{"name": "softmax_attention", "d_model": spec["d_model"], "n_heads": spec.get("n_heads", 8)}]
    if family == "linear":
        return [{"name": "linear", "d_in": spec["d_in"], "d_out": spec["d_out"]}]
    return []


def _hidden_width(spec: dict[str, Any]) -> int:
    """The part's own hidden width, that of all its experts together, or else four times the width of the stream."""
    experts = sum(spec.get(key, 0) for key in ("n_experts", "n_shared", "n_routed"))
    return spec.get("d_hidden") or spec.get("d_expert", 0) * experts or 4 * spec["d_model"]


def example(part: Operator | Scheme) -> str:
    """Code that builds the part and uses it. Arguments that the class would choose itself are left out."""
    defaults = inspect.signature(type(part).__init__).parameters
    given = {k: v for k, v in part.spec().items() if k == "name" or defaults[k].default != v}
    if isinstance(part, Scheme):
        return (
            f"import torch\nfrom layersmith import catalogue\nfrom layersmith.scheme.shared.flow import plain_model\n\n"
            f"part = catalogue.build({given!r})\nmodel = plain_model(4, part.tested_on)  # any TransformerLM\n"
            f"part.apply(model)\noptimizer = torch.optim.AdamW(part.learning_rates(model, lr=1e-3))\n"
            f"y = model(torch.zeros(2, 16, dtype=torch.long)).logits"
        ).replace("'", '"')
    call = "y, state = part(x)" if part.family in ("mixer", "block") else "y = part(x)"
    return (
        f"import torch\nfrom layersmith import catalogue\n\npart = catalogue.build({given!r})\n"
        f"x = torch.randn(2, 16, {part.d_in})\n{call}"
    ).replace("'", '"')


def builders(name: str) -> list[Builder]:
    """The methods that put the part into a trained model."""
    return [Builder(method, when_it_pays(method), methods.get(method).saves) for method in methods.building(name)]


def when_it_pays(method: str) -> str:
    """What the method's docstring says after "When it pays:", on one line; empty when it says nothing."""
    found = PAYS.search(method_text(method))
    return " ".join(found[1].split()) if found else ""


def method_text(method: str) -> str:
    """The docstring that opens the method's file."""
    return inspect.cleandoc(import_module(methods.METHODS[method].partition(":")[0]).__doc__ or "")


def tests(outcomes: Outcomes) -> list[tuple[str, str, int]]:
    """("passed" or "FAILED", test function, number of runs): a function that runs over many settings is one row.

    Records of comparisons, which stand among the tests of the official rung, are left out.
    """
    counts = [("passed", Counter(t.partition("[")[0] for t in outcomes.passed if not t.endswith(".json")))]
    counts += [("FAILED", Counter(t.partition("[")[0] for t in outcomes.failed if not t.endswith(".json")))]
    return [(outcome, function, runs) for outcome, counter in counts for function, runs in counter.items()]


def standing(paper: Paper) -> Standing:
    """Which parts and methods name the paper, and what was measured of its claims."""
    parts, used = _uses()
    claims = [(part, claim) for part in catalogue.ENTRIES for claim in evidence.of(part).claims]
    return Standing(
        tuple(parts.get(paper.id, ())),
        tuple(used.get(paper.id, ())),
        tuple((part, claim) for part, claim in claims if claim.paper == paper.id),
    )


@cache
def _uses() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Paper id -> parts, paper id -> methods."""
    parts = {key: [n for n, entry in catalogue.ENTRIES.items() if key in entry.papers] for key in papers()}
    found = {name: methods.get(name).papers for name in methods.METHODS}
    return parts, {key: [name for name, keys in found.items() if key in keys] for key in papers()}
