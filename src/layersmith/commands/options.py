"""A command's options, made from the dataclass it is called with: one field, one option, nothing said twice."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from layersmith.errors import UserError

#: Letters that may end a number of a budget.
_SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def takes(config: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as options; it is called with the whole as `config`.

    A field's name is the option's (or `metadata["flag"]`), its `metadata["help"]` the help, its default the default.
    Lists are written with commas, dicts as NAME=VALUE with commas (either may be spread over several such options), and
    a bool is a flag. A field without help is no option.
    """
    hints = get_type_hints(config)
    fields = [field for field in dataclasses.fields(config) if "help" in field.metadata]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            options = {field.name: _read(hints[field.name], given.pop(field.name)) for field in fields}
            command(config=config(**options), **given)

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "config"]
        made = [_parameter(field, hints[field.name]) for field in fields]
        both = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*made, *own)]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
        run.__annotations__ = {}
        return run

    return decorate


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """The field as typer understands it."""
    optional = type(None) in get_args(hint)
    plain = _plain(hint)
    metavar, _ = _READ.get(plain, (None, None))
    written = plain if metavar is None else str if plain is Path else list[str]
    flag = field.metadata.get("flag", "--" + field.name.replace("_", "-"))
    option = typer.Option(flag, help=field.metadata["help"], metavar=metavar)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
        annotation=Annotated[written | None if optional else written, option],
    )


def _read(hint: Any, text: Any) -> Any:
    """The field's value for what typer read."""
    _, read = _READ.get(_plain(hint), (None, None))
    if read is None or text is None:
        return text
    return read(",".join(text) if isinstance(text, list) else text)


def _plain(hint: Any) -> Any:
    """`int | None` -> int."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) else hint


def parse_budget(text: str) -> dict[str, float]:
    """`"latency=0.75,bytes=0.5"` -> `{"latency": 0.75, "bytes": 0.5}`; 100k, 1M, 2G and 1T are numbers too."""
    budget: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            share = float(value[:-1]) * _SUFFIXES[value[-1]] if value[-1:] in _SUFFIXES else float(value)
        except ValueError as error:
            raise UserError(
                f"The budget {text!r} is not of the form NAME=NUMBER[,NAME=NUMBER]: {part!r} has no number after an "
                f"equals sign. Write, for example, latency=0.75,bytes=0.5."
            ) from error
        if name in budget:
            raise UserError(f"The budget {text!r} names {name} twice ({budget[name]:g} and {share:g}). Give it once.")
        budget[name] = share
    return budget


def parse_settings(text: str) -> dict[str, str]:
    """`"features=4096,active=32"` -> `{"features": "4096", "active": "32"}`."""
    settings: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or not equals or not value:
            raise UserError(f"The settings {text!r} are not of the form NAME=VALUE[,NAME=VALUE]: look at {part!r}.")
        if name in settings:
            raise UserError(f"The settings {text!r} name {name} twice. Give it once.")
        settings[name] = value
    return settings


def parse_numbers(text: str) -> list[float]:
    """`"1e-3, 3e-3"` -> `[0.001, 0.003]`."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise UserError(f"{text!r} is no list of numbers separated by commas, such as 1e-3,3e-3.") from error


def parse_names(text: str) -> list[str]:
    """`"width, drop"` -> `["width", "drop"]`."""
    return [name.strip() for name in text.split(",")]


def parse_folder(text: str) -> Path:
    """A path, with `~` for the home folder."""
    if not text.strip():
        raise UserError("A folder was given with an empty name. Give one, such as out/demo.")
    return Path(os.path.expanduser(text))


#: How a field is written on the command line, and read from there; what is not here typer reads itself.
_READ: dict[Any, tuple[str, Callable[[str], Any]]] = {
    dict[str, float]: ("NAME=NUMBER,...", parse_budget),
    dict[str, Any]: ("NAME=VALUE,...", parse_settings),
    list[str]: ("NAME,...", parse_names),
    list[float]: ("NUMBER,...", parse_numbers),
    Path: ("FOLDER", parse_folder),
}
