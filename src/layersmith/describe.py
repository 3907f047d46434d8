"""What is known about a part, a method, a fold or a paper, as `layersmith show` prints it and the pages show it.

The catalogue knows parts and papers, the methods know what they build, the evidence knows what was verified; here it
comes together, in plain values. How it looks is the business of the command and of the pages.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from layersmith import catalogue, evidence, facts
from layersmith.errors import UserError
from layersmith.evidence import Outcomes
from layersmith.papers import named
from layersmith.refitting import methods

if TYPE_CHECKING:  # they bring torch, which a search does without
    from layersmith.contract import Cost, Operator, Scheme
    from layersmith.refitting.method import Method

COST_COLUMNS = ("params", "active per token", "bytes", "FLOPs", "bytes of state")


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
        example = _scaled(example, d_model, base)
    return {"name": name, **example, **(config or {})}


def _scaled(given: Any, d_model: int, base: int) -> Any:
    """A config, or a part of one, all widths of which are d_model / base times as large."""
    if isinstance(given, list):
        return [_scaled(each, d_model, base) for each in given]
    if not isinstance(given, dict):
        return given
    return {
        key: value * d_model // base if key.startswith("d_") else _scaled(value, d_model, base)
        for key, value in given.items()
    }


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
    from layersmith.contract import Scheme

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


def builders(name: str) -> list[Method]:
    """The methods that put the part into a trained model."""
    return [methods.get(method) for method in methods.building(name)]


def command(method: Method) -> str:
    """The command that tries the method."""
    return f"layersmith refit MODEL --methods {method.name} …"


def offered(method: Method) -> str:
    """When a run tries the method: for which budgets, or only when it is named."""
    if not method.default:
        return "only when named"
    *first, last = method.saves
    return f"for a budget of {', '.join(first)}{' or ' if first else ''}{last}"


def needs(method: Method) -> str:
    """What the method needs, in plain words: of the site, and of the calibration."""
    from layersmith.refitting.method import STATISTICS

    reads = [STATISTICS[name] for name in method.statistics]
    return "; ".join(filter(None, [method.requires, "reads " + ", ".join(reads) if reads else "the weights alone"]))


def method_text(method: str) -> str:
    """The docstring that opens the method's file."""
    return facts.of(methods.target(method)).opening


def method_kind(method: str) -> str:
    """What a method does to a sublayer, which is the room its file is in: prune, replace, quantize, drop or fits."""
    return methods.target(method).partition(":")[0].split(".")[3]


def method_missing(method: Method) -> str:
    """What of its papers a method lacks: its own words, and those of the parts it puts in place."""
    of_parts = [catalogue.entry(part).missing for part in method.builds]
    return "; ".join(dict.fromkeys(filter(None, [method.missing, *of_parts])))


def methods_as_json() -> list[dict[str, Any]]:
    """One record for each method: what it does where, what it needs, when it pays, state, papers, evidence of parts."""
    return [method_as_json(name) for name in methods.METHODS]


def method_as_json(name: str) -> dict[str, Any]:
    method = methods.get(name)
    return {
        "name": name,
        "kind": method_kind(name),
        "sites": list(method.kinds),
        "summary": facts.of(methods.target(name)).first_line,
        "default": method.default,
        "saves": list(method.saves),
        "requires": method.requires,
        "statistics": list(method.statistics),
        "when_it_pays": method.when_it_pays,
        "differs": method.differs,
        "builds": list(method.builds),
        "state": catalogue.state(method_missing(method)),
        "evidence": {part: evidence.of(part).level for part in method.builds},
        "papers": named(method.papers),
    }


def tests(outcomes: Outcomes) -> list[tuple[str, str, int]]:
    """("passed" or "FAILED", test function, number of runs): a function that runs over many settings is one row.

    Records of comparisons, which stand among the tests of the official rung, are left out.
    """
    counts = [("passed", Counter(t.partition("[")[0] for t in outcomes.passed if not t.endswith(".json")))]
    counts += [("FAILED", Counter(t.partition("[")[0] for t in outcomes.failed if not t.endswith(".json")))]
    return [(outcome, function, runs) for outcome, counter in counts for function, runs in counter.items()]
