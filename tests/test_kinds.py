"""A wrong kind of argument is one paragraph, in every verb: which one, what is wanted; nothing is done before."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import layersmith
from layersmith import api
from layersmith.errors import UserError
from layersmith.kinds import check_kinds, in_plain_kinds

VERBS = [name for name in api.__all__ if inspect.isroutine(getattr(api, name))]
#: What a call of each verb needs besides the argument that is tried. Nothing of it is ever read.
GIVEN: dict[str, dict[str, Any]] = {
    "load": {"name": "pocket"},
    "build": {"name": "glu"},
    "load_construction": {"folder": "new"},
    "refit": {"model": "pocket", "budget": {"params": 0.9}},
    "explain": {"model": "pocket"},
    "export": {"model": "pocket", "to": "onnx", "out": "new.onnx"},
    "construct": {"name": "sorting"},
    "race": {"mixer": ["softmax_attention", "deltanet"]},
    "save": {"edits": [], "path": "new"},
    "swap": {"modules": {}},
    "apply": {"modules": {}},
}
#: Models that are none, wherever a loaded model is wanted.
NO_MODELS = [5, None, b"x", ["pocket"], {"model": 1}, nn.Linear, object()]


class Nothing:
    """Of no kind that any argument has; its own words are long, and in lines."""

    def __repr__(self) -> str:
        return "nothing\n" * 50


def _wrong(hint: Any) -> list[Any]:
    """Values that no such annotation allows, some only a little beside it."""
    tried = [Nothing(), 1j, [Nothing()], {"a": Nothing()}, {5: 5}, b"x", nn.Linear]
    beside = {str: [5], int: [1.5, "1", True], float: ["1", False], bool: [1, "yes"], type(None): []}
    for kind, values in beside.items():
        tried += values if hint is kind else []
    return [value for value in tried if not _passes(value, hint)]


def _passes(value: Any, hint: Any) -> bool:
    """The few of these values that some annotation does allow: a dict of anything, a function."""
    text = str(hint)
    if isinstance(value, dict):
        anything = "dict[str, typing.Any]" in text or "Mapping[str, object]" in text
        return anything and all(isinstance(key, str) for key in value)
    return "Callable" in text and callable(value)


def _cases() -> list[tuple[str, str, Any]]:
    hints = {verb: get_type_hints(getattr(api, verb)) for verb in VERBS}
    return [
        (verb, name, value)
        for verb in VERBS
        for name in inspect.signature(getattr(api, verb)).parameters
        if hints[verb][name] is not Any
        for value in _wrong(hints[verb][name])
    ]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model() -> Any:
    return layersmith.load("pocket")[0]


def called(verb: str, model: Any, arguments: dict[str, Any]) -> str:
    """What the verb says in refusing; a test that fails when it does not refuse."""
    function = getattr(api, verb)
    first = next(iter(inspect.signature(function).parameters))
    given = {**GIVEN.get(verb, {}), **arguments}
    if first == "model" and "model" not in given:
        given["model"] = model
    call = functools.partial(function, **given)
    with pytest.raises(UserError) as refused:
        call().__enter__() if verb == "swap" else call()
    return str(refused.value)


def test_every_argument_of_every_verb(model: Any, tmp_path: Path) -> None:
    cases = _cases()
    assert len(cases) > 400
    assert {verb for verb, _, _ in cases} >= {"load", "refit", "measure", "explain", "race", "export", "swap", "save"}
    for verb, name, value in cases:
        needs_out = verb in ("refit",) and name != "out"
        said = called(verb, model, {**({"out": tmp_path / "new"} if needs_out else {}), name: value})
        assert name in said or name in ("model", "against"), (verb, name, value, said)
        assert "\n" not in said, (verb, name)
        assert 20 < len(said) < 600, (verb, name, said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["refit", "explain", "export", "measure", "sites", "swap", "apply", "save", "load"])
def test_no_model(verb: str, tmp_path: Path) -> None:
    where = {"refit": {"out": tmp_path / "new"}, "explain": {"out": tmp_path / "new"}}
    for value in NO_MODELS:
        first = "name" if verb == "load" else "model"
        said = called(verb, None, {**where.get(verb, {}), first: value})
        assert "torch module" in said or "name must be a text or a path" in said, (verb, value, said)
        assert "\n" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("load", {"name": 5}, "name must be a text or a path, not 5."),
        ("refit", {"out": None}, "out must be a text or a path, not None."),
        ("refit", {"out": "new", "reuse": 5}, "reuse must be a text or a path or None, not 5."),
        ("refit", {"out": "new", "tokenizer": "pocket"}, "tokenizer must be a tokenizer or processor"),
        ("refit", {"out": "new", "budget": ["latency"]}, "A budget is needed"),
        ("refit", {"out": "new", "methods": "width"}, "methods must be a list of at least one name"),
        ("race", {"mixer": "deltanet"}, "mixer must be a list (each entry a text) or None, not 'deltanet'."),
        ("race", {"seeds": True}, "seeds must be a whole number, not True."),
        ("swap", {"modules": {"layers.0.ffn": 5}}, "not a torch.nn.Module"),
        ("measure", {"seed": 2**64}, "The seed must be a whole number from 0 to 4294967295"),
        (
            "measure",
            {"at": "prefill=99999999x8", "data": "random", "windows": 1},
            "99999999 x 8 tokens do not fit into memory",
        ),
        ("measure", {"windows": 0}, "windows must be at least 1, not 0"),
        ("measure", {"rounds": 0, "data": "random"}, "rounds must be at least 1, not 0"),
    ],
)
def test_what_is_said(verb: str, arguments: dict[str, Any], said: str, model: Any) -> None:
    assert said in called(verb, model, arguments)


def verb(
    whole: int,
    number: float,
    listed: list[str],
    shapes: str | Sequence[str],
    table: Mapping[str, int],
    ask: Callable[[], int],
) -> None:
    """Of every form of annotation, one."""


@dataclass(frozen=True)
class Options:
    budget: Any = None
    names: Any = None
    count: Any = None
    flag: Any = True
    made: Any = Nothing
    out: Any = Path("a")


def test_options_are_kept_in_kinds_that_json_has_and_that_do_not_depend_on_the_process() -> None:
    budget = {"params": np.float32(0.5), "bytes": Fraction(3, 4), "kv": 1}
    found = in_plain_kinds(Options(budget, ({"b", "c", "a"}, ["d"]), np.int64(3), made=(Nothing, True)))
    assert found == Options({"params": 0.5, "bytes": 0.75, "kv": 1}, [["a", "b", "c"], ["d"]], 3, made=[Nothing, True])
    kinds = [type(value) for value in (*found.budget.values(), found.count, found.made[1], found.flag)]
    assert kinds == [float, float, int, int, bool, bool]
    assert json.loads(json.dumps([found.budget, found.names, found.count])) == [found.budget, found.names, 3]


def test_what_passes() -> None:
    for given in (
        {"whole": 3, "number": 3, "listed": ["a"], "shapes": "a", "table": {"a": 1}, "ask": len},
        {
            "whole": np.int64(3),
            "number": np.float32(0.5),
            "listed": ("a", "b"),
            "shapes": ["a"],
            "table": {},
            "ask": Path,
        },
        {"listed": {"a"}, "number": float("nan"), "shapes": [], "unknown": 5},
    ):
        check_kinds(verb, given)
    for name, wrong in (
        ("whole", True),
        ("whole", 3.0),
        ("number", torch.ones(1)),
        ("listed", "ab"),
        ("listed", {"a": 1}),
        ("listed", None),
        ("shapes", [1]),
        ("table", {"a": "b"}),
        ("table", [("a", 1)]),
        ("ask", 5),
    ):
        with pytest.raises(UserError, match=name):
            check_kinds(verb, {name: wrong})
        check_kinds(verb, {name: wrong}, but=[name])
