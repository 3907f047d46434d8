"""Refusals: a configuration that cannot work is refused when the part is built, in words that name the argument.

Values tried on every integer argument: 0, -1, and 7, which divides nothing here. Each must either give a part that
works or a ValueError that names the argument; a width of 0, and -1 of anything, must be refused.
"""

from __future__ import annotations

from typing import Any

import torch

from layersmith.check.subject import Failed, Subject, outputs

WIDTHS = ("d_model", "d_in", "d_out")


def refuses_bad_sizes(subject: Subject) -> str:
    """Zero, negative and indivisible sizes."""
    numbers = [k for k, v in _arguments(subject).items() if isinstance(v, int) and not isinstance(v, bool)]
    refused = 0
    for name in numbers:
        for value in (0, -1, 7):
            must = value == -1 or (value == 0 and name in WIDTHS)
            refused += _refused(subject, name, value, must)
    return f"{', '.join(numbers)}: {refused} of {3 * len(numbers)} values refused, the others work"


def refuses_unknown_choices(subject: Subject) -> str:
    """A string argument with a value nobody knows."""
    choices = [k for k, v in _arguments(subject).items() if isinstance(v, str)]
    for name in choices:
        _refused(subject, name, "no-such-choice", must=True)
    return ", ".join(choices)


def refuses_what_json_cannot_hold(subject: Subject) -> str:
    """A tensor, a function or a set cannot be saved with the model, so it is no configuration."""
    name = next(iter(_arguments(subject)))
    for value in (torch.zeros(1), {1, 2}, torch.relu):
        try:
            subject.part(**{**subject.config, name: value})
        except ValueError:
            continue
        raise Failed(f"{name}={value!r} was accepted")
    return "tensor, set, function"


def _refused(subject: Subject, name: str, value: Any, must: bool) -> bool:
    """True if building with name=value raised a good ValueError; False if the part works with it."""
    try:
        module = subject.build(**{name: value})
    except ValueError as refusal:
        # A 7 is wrong only beside another argument, so the message may name that one instead.
        named = _arguments(subject) if value == 7 else (name,)
        if not any(argument in str(refusal) for argument in named):
            raise Failed(f"{name}={value!r} is refused without naming {name}: {refusal}") from refusal
        return True
    except Exception as wrong:  # whatever else a constructor raises is the finding itself
        raise Failed(f"{name}={value!r} raises {type(wrong).__name__} ({wrong}); raise a ValueError") from wrong
    if must:
        raise Failed(f"{name}={value!r} was accepted; refuse it with a ValueError that names {name}")
    changed = Subject(subject.part, {**subject.config, name: value})
    try:
        outputs(module, changed.input(1, 5))
    except Exception as wrong:  # as above: built without complaint, then broke
        raise Failed(f"{name}={value!r} was accepted and then forward failed: {wrong}") from wrong
    return False


def _arguments(subject: Subject) -> dict[str, Any]:
    """Every constructor argument with its value, defaults included."""
    return {k: v for k, v in subject.build().spec().items() if k != "name"}
