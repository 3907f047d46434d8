"""`layersmith check`: names, files and classes of the user's own; the exit status says whether everything passed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from layersmith import catalogue
from layersmith.check import CHECKS
from layersmith.commands.check import check

PARTS = """
from torch import nn
from layersmith.contract import FeedForward, require_positive

class Good(FeedForward):
    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        require_positive(Good, d_model=d_model, d_hidden=d_hidden)
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)

    def forward(self, x):
        return self.down(self.up(x).relu())

class Leaky(Good):
    def forward(self, x):
        return super().forward(x) + x.mean(-2, keepdim=True)
"""


@pytest.fixture
def app() -> typer.Typer:
    program = typer.Typer()
    program.command()(check)
    return program


@pytest.fixture
def own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working directory, as a user has it; sys.path is put back afterwards."""
    (tmp_path / "own_parts_of_a_user.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_one_part_prints_every_check(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["rms_norm"])
    assert done.exit_code == 0, done.output
    for name in CHECKS:
        assert name in done.output


def test_json_is_a_flag_and_prints_nothing_else(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["rms_norm", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["schema"] == "layersmith.check/1"
    assert record["parts"][0]["passed"] is True
    assert [c["check"] for c in record["parts"][0]["checks"]] == list(CHECKS)


@pytest.mark.usefixtures("own_parts")
def test_a_class_of_the_users_own_is_found_in_the_working_directory(app: typer.Typer) -> None:
    config = '{"d_model": 16, "d_hidden": 8}'
    good = CliRunner().invoke(app, ["own_parts_of_a_user:Good", "--config", config])
    assert good.exit_code == 0, good.output
    leaky = CliRunner().invoke(app, ["own_parts_of_a_user:Leaky", "--config", config])
    assert leaky.exit_code == 1
    assert "FAIL" in leaky.output


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own_parts_of_a_user:Good"], r"needs a value for d_hidden"),
        (["own_parts_of_a_user:Good", "--config", '{"d_model": 16, "d_hidden": 0}'], "d_hidden must be a positive"),
        (["own_parts_of_a_user:Good", "--config", "d_model=16"], "not JSON"),
        (["own_parts_of_a_user:Good", "--config", "[16]"], "JSON object"),
        (["own_parts_of_a_user:Absent"], "not an operator class"),
        (["gr_can"], "gr_kan"),
        ([], "Say what to check"),
        (["glu", "--all"], "Say what to check"),
        (["--all", "--config", "{}"], "goes with one part"),
    ],
)
def test_mistakes_get_one_readable_paragraph(app: typer.Typer, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_all_reports_each_part_and_fails_if_one_does(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = {name: catalogue.ENTRIES[name] for name in ("identity", "rms_norm")}
    monkeypatch.setattr(catalogue, "ENTRIES", few)
    good = CliRunner().invoke(app, ["--all"])
    assert good.exit_code == 0, good.output
    assert "2 of 2 parts pass" in good.output
    (tmp_path / "leaky_parts_of_a_user.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    bad = catalogue.Entry("leaky_parts_of_a_user:Leaky", "ffn", (), {"d_model": 16, "d_hidden": 8})
    monkeypatch.setattr(catalogue, "ENTRIES", few | {"leaky": bad})
    failed = CliRunner().invoke(app, ["--all"])
    assert failed.exit_code == 1
    assert "token_wise" in failed.output
    assert "2 of 3 parts pass" in failed.output
