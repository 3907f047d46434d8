"""Options made from a dataclass: nothing is restated, and every kind of field is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from layersmith.commands.options import parse_budget, parse_settings, takes
from layersmith.errors import UserError


@dataclass(frozen=True)
class Config:
    shares: dict[str, float] = field(metadata={"help": "what share"})
    place: Path | None = field(default=None, metadata={"help": "where"})
    names: list[str] | None = field(default=None, metadata={"help": "which"})
    settings: dict[str, Any] | None = field(default=None, metadata={"flag": "--set", "help": "of the tool"})
    steps: int | None = field(default=None, metadata={"help": "how many"})
    rate: float = field(default=0.5, metadata={"help": "how fast"})
    keep_all: bool = field(default=False, metadata={"help": "whether"})


@pytest.fixture
def app() -> tuple[typer.Typer, list[tuple[str, Config, bool]]]:
    seen: list[tuple[str, Config, bool]] = []

    @takes(Config)
    def command(model: str, config: Config, quiet: bool = False) -> None:
        """Do it."""
        seen.append((model, config, quiet))

    program = typer.Typer()
    program.command()(command)
    return program, seen


def test_every_kind_of_field_is_read(app: tuple[typer.Typer, list[tuple[str, Config, bool]]]) -> None:
    program, seen = app
    line = ["m", "--shares", "a=0.5, b=1", "--place", "x/y", "--names", "n, o", "--steps", "3", "--keep-all", "--quiet"]
    line += ["--set", "k=3, way = top"]
    done = CliRunner().invoke(program, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert seen == [
        ("m", Config({"a": 0.5, "b": 1.0}, Path("x/y"), ["n", "o"], {"k": "3", "way": "top"}, 3, 0.5, True), True)
    ]


def test_an_option_of_several_values_may_be_given_again(
    app: tuple[typer.Typer, list[tuple[str, Config, bool]]],
) -> None:
    """The last one alone would silently take the place of the others."""
    program, seen = app
    line = [
        "m",
        "--shares",
        "a=0.5",
        "--shares",
        "b=1",
        "--names",
        "n",
        "--names",
        "o,p",
        "--set",
        "k=3",
        "--set",
        "l=4",
    ]
    assert CliRunner().invoke(program, line, catch_exceptions=False).exit_code == 0
    assert seen[0][1] == Config({"a": 0.5, "b": 1.0}, names=["n", "o", "p"], settings={"k": "3", "l": "4"})


def test_what_is_not_given_is_the_dataclasss_own_default(
    app: tuple[typer.Typer, list[tuple[str, Config, bool]]],
) -> None:
    program, seen = app
    CliRunner().invoke(program, ["m", "--shares", "a=1"], catch_exceptions=False)
    assert seen == [("m", Config({"a": 1.0}), False)]
    assert CliRunner().invoke(program, ["m"]).exit_code == 2, "a field without a default is required"


def test_help_is_the_fields_own(app: tuple[typer.Typer, list[tuple[str, Config, bool]]]) -> None:
    program, _ = app
    text = CliRunner().invoke(program, ["--help"], env={"COLUMNS": "200"}).output
    for shown in ("--keep-all", "what share", "where", "which", "how many", "how fast", "0.5", "Do it."):
        assert shown in text
    assert "--no-keep-all" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [("a=1,a=0.5", "names a twice"), ("a", "NAME=NUMBER"), ("a=", "NAME=NUMBER"), ("a=1,", "NAME=NUMBER")],
)
def test_budgets_that_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_budget(text)


@pytest.mark.parametrize("text", ["k", "k=", "=3", "k=3,", "k=3,k=4", ""])
def test_settings_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match="settings"):
        parse_settings(text)
