"""What the arguments of a public function may be, read off its annotations; anything else is refused in words.

The one check of kinds that all verbs have, so that `load(5)`, `race(mixer="deltanet")` and `swap(model, 7)` are
answered alike, before anything is done. What a value of the right kind may be is for each verb to say.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import fields, replace
from functools import cache
from numbers import Integral, Real
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from layersmith.errors import UserError

Options = TypeVar("Options")

_WORDS = {
    "NoneType": "None",
    "str": "a text",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "PathLike": "a path",
    "Path": "a path",
    "Callable": "a function",
    "Module": "a torch module",
    "dtype": "a torch.dtype",
    "Tokenizer": "a tokenizer or processor, as layersmith.load and transformers give it,",
    "PreTrainedTokenizerBase": "a tokenizer, as layersmith.load and transformers give it,",
}
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 60


def check_kinds(annotated: Callable[..., Any], given: Mapping[str, Any], but: Collection[str] = ()) -> None:
    """Raise a UserError, saying what is wanted, for the first value that is not of the kind its annotation names.

    annotated  the function itself, or the class whose fields are meant
    given      name -> value: `locals()` on the function's first line, `vars` of the object
    but        names that are checked elsewhere, in better words

    A whole number passes as a number, True as neither; any sequence or set passes as a list, a text as none.
    """
    for name, hint in _hints(annotated).items():
        if name in given and name not in but and not _fits(given[name], hint):
            raise UserError(f"{name} must be {_said(hint)}, not {shown(given[name])}.")


def in_plain_kinds(options: Options) -> Options:
    """The same options (a dataclass) in the kinds that JSON has, because a run stores them and compares what it stored.

    NumPy's numbers, fractions, tuples and sets pass where a number or a list is wanted. A set is sorted: its own order
    is another one in every process.
    """
    return replace(options, **{f.name: _plain(getattr(options, f.name)) for f in fields(options)})  # type: ignore


def _plain(value: Any) -> Any:
    if isinstance(value, bool | str | bytes):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Set):
        return sorted((_plain(each) for each in value), key=str)
    return [_plain(each) for each in value] if isinstance(value, Sequence) else value


@cache
def _hints(annotated: Callable[..., Any]) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(annotated).items() if name != "return"}


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind in (dict, Mapping):
        pairs = value.items() if isinstance(value, Mapping) else [(None, None)]
        return isinstance(value, kind) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in pairs)
    if kind in (list, Sequence):
        listed = isinstance(value, Sequence | Set) and not isinstance(value, str | bytes)
        return listed and all(_fits(each, inner[0]) for each in value)
    return isinstance(value, kind)


def _said(hint: Any) -> str:
    """A kind in words: "a list (each entry a text) or None"."""
    if hint is Any:
        return "anything"
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_said(each) for each in inner))
    if kind in (dict, Mapping):
        return f"a dict (each key {_said(inner[0])}, each value {_said(inner[1])})"
    if kind in (list, Sequence):
        return f"a list (each entry {_said(inner[0])})"
    name = kind.__name__
    return _WORDS.get(name, f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}")


def shown(value: Any) -> str:
    """A value in one short line, however long its own representation is."""
    return " ".join(_SHOWN.repr(value).split())
