"""What every scheme must do: keep its promise about large models, repeat itself, leave a model that saves and decodes.

A scheme is tried on the small plain transformer of `scheme.shared.flow`, with the layers its `tested_on` asks for.
"""

from __future__ import annotations

import inspect
import json
import math
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.check.subject import Failed, require_close
from layersmith.contract import Scheme
from layersmith.model import TransformerLM
from layersmith.scheme.shared.flow import measured_growth, plain_model

SMALL = 3


@dataclass(frozen=True)
class SchemeSubject:
    """One scheme under one configuration."""

    part: type[Scheme]
    config: dict[str, Any]

    def build(self, **changes: Any) -> Scheme:
        return self.part(**{**self.config, **changes})

    def applied(self, seed: int = 0) -> TransformerLM:
        """A small model after the scheme, in evaluation mode."""
        torch.manual_seed(0)
        model = plain_model(SMALL, self.part.tested_on)
        torch.manual_seed(seed)
        self.build().apply(model)
        return model.eval()

    @cached_property
    def ids(self) -> Tensor:
        return torch.randint(1, 64, (2, 12), generator=torch.Generator().manual_seed(0), device="cpu")


def plain_constructor(subject: SchemeSubject) -> str:
    """The constructor names every argument: no *args and no **kwargs, where misspelt arguments vanish."""
    signature = inspect.signature(subject.part.__init__)
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise Failed(f"the constructor takes {parameter}; name each argument")
    return f"{len(signature.parameters) - 1} arguments"


def spec_round_trip(subject: SchemeSubject) -> str:
    """`spec()` survives JSON and rebuilds an equal scheme."""
    scheme = subject.build()
    spec = json.loads(json.dumps(scheme.spec()))
    if ":" not in spec["name"] and catalogue.resolve(spec["name"]) is not subject.part:
        raise Failed(f"calls itself {spec['name']!r}, which the catalogue resolves to another class")
    rebuilt = subject.part(**{k: v for k, v in spec.items() if k != "name"})
    if rebuilt.spec() != spec:
        raise Failed(f"the rebuilt scheme has the spec {rebuilt.spec()}, not {spec}")
    return json.dumps(spec)


def refuses_bad_config(subject: SchemeSubject) -> str:
    """NaN and -1 for numbers and unknown strings are refused with a ValueError that names the argument."""
    tried = 0
    for name, value in subject.build().spec().items():
        if name == "name" or isinstance(value, bool):
            continue
        if isinstance(value, str):
            wrong: list[Any] = ["no-such-choice"]
        elif isinstance(value, int | float):
            wrong = [-1, math.nan]
        else:
            continue
        for bad in wrong:
            tried += 1
            try:
                subject.build(**{name: bad})
            except ValueError as refusal:
                if name not in str(refusal):
                    raise Failed(f"{name}={bad!r} is refused without naming {name}: {refusal}") from refusal
                continue
            except Exception as other:  # whatever else a constructor raises is the finding itself
                raise Failed(f"{name}={bad!r} raises {type(other).__name__}; raise a ValueError") from other
            raise Failed(f"{name}={bad!r} was accepted; refuse it with a ValueError that names {name}")
    return f"{tried} values refused"


def deterministic(subject: SchemeSubject) -> str:
    """One seed, one model: applied twice under a seed the weights are bit-equal."""
    first, second = subject.applied().state_dict(), subject.applied().state_dict()
    if first.keys() != second.keys():
        raise Failed("two applications leave different tensors")
    different = [k for k in first if not torch.equal(first[k], second[k])]
    if different:
        raise Failed(f"one seed, two values: {', '.join(different)}")
    return f"{len(first)} tensors bit-equal"


def saves(subject: SchemeSubject) -> str:
    """save_pretrained and from_pretrained give bit-equal logits: what was changed stands in config and weights."""
    model = subject.applied()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        again = TransformerLM.from_pretrained(folder).eval()
        if not torch.equal(again(input_ids=subject.ids).logits, model(input_ids=subject.ids).logits):
            raise Failed("the reloaded model gives other logits")
    return f"{len(model.state_dict())} tensors"


def generates(subject: SchemeSubject) -> str:
    """Token by token with the cache, the logits are those of the whole sequence."""
    model, ids = subject.applied().double(), subject.ids
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :5], use_cache=True)
        parts, cache = [first.logits], first.past_key_values
        for t in range(5, ids.shape[1]):
            step = model(input_ids=ids[:, t : t + 1], past_key_values=cache, use_cache=True)
            parts.append(step.logits)
            cache = step.past_key_values
    worst = require_close(torch.cat(parts, 1), whole, 1e-6, "cached decoding against the whole sequence")
    return f"relative error {worst:.0e}"


def learning_rates(subject: SchemeSubject) -> str:
    """The parameter groups hold every trainable parameter once, with a positive rate proportional to the one asked."""
    model, scheme = subject.applied(), subject.build()
    groups, doubled = scheme.learning_rates(model, 1e-3), scheme.learning_rates(model, 2e-3)
    listed = sorted(id(p) for group in groups for p in group["params"])
    if listed != sorted(id(p) for p in model.parameters() if p.requires_grad):
        raise Failed("the groups do not hold every trainable parameter exactly once")
    for group, twice in zip(groups, doubled, strict=True):
        if not group["lr"] > 0 or not math.isclose(twice["lr"], 2 * group["lr"]):
            raise Failed(f"a group has the rate {group['lr']}, and {twice['lr']} when twice the rate is asked for")
    torch.optim.AdamW(groups)
    return f"{len(groups)} groups"


def keeps_its_promise(subject: SchemeSubject) -> str:
    """What the scheme promises about large models holds, and a plain model breaks at least one of its promises."""
    promised = subject.part.expected
    if not promised:
        raise Failed("the scheme promises nothing: say in `expected` what it does at depth")
    found = measured_growth(subject.build(), subject.part.tested_on)
    plain = _plain_growth(json.dumps(subject.part.tested_on))
    for name, (low, high) in promised.items():
        if not low <= found[name] <= high:
            raise Failed(f"{name} is {found[name]:.3g}, promised {low} to {high}")
    if all(low <= plain[name] <= high for name, (low, high) in promised.items()):
        raise Failed("a plain model keeps every promise as well, so they say nothing about the scheme")
    return ", ".join(f"{name} {found[name]:.2f} (plain {plain[name]:.2f})" for name in promised)


@cache
def _plain_growth(changes: str) -> dict[str, float]:
    """Of models without a scheme; many schemes are tried on the same ones."""
    return measured_growth(None, json.loads(changes))
