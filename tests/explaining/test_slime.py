"""The survey `slime`: what is planted in a model is found around the right token, and slips are told."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from layersmith.cli import app
from layersmith.errors import MissingExtra, UserError
from layersmith.explaining.formulas.around import Flat, fit
from layersmith.explaining.pipeline import explain
from layersmith.explaining.slime import Slime, nearest, verdict
from tests.explaining.conftest import tiny


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def settings(**given: object) -> dict:
    return {**Slime.settings, "points": 256, **given}


def test_neighbours_are_the_nearest_inputs_that_are_not_the_token_again() -> None:
    rows = torch.tensor([[4.0, 3.0], [4.0, 0.0], [4.00001, 0.0], [4.0, -1.0], [6.0, 0.0]]).double()
    near, away = nearest(rows, rows[1], 3)
    assert near.tolist() == [[4.0, -1.0], [6.0, 0.0], [4.0, 3.0]]
    assert away == pytest.approx(0.5)
    assert len(nearest(rows, rows[1], 9)[0]) == 3


def test_a_verdict_says_what_beats_what() -> None:
    def of(ours: float, linear: float, shuffled: float = 1.0, holds: float | None = 2.0) -> str:
        errors = {"equations": ours, "linear": linear, "mean": 1.0, "shuffled": shuffled}
        return verdict({"errors": {"1": errors}, "neighbours": {"equations": 3.0}, "holds": holds})

    assert of(0.1, 0.2).startswith("The equations are nearer than LIME's linear fit (error 0.1 against 0.2).")
    assert "Up to 2 times as far away the error stays below 0.1; at the neighbours in the text it is 3." in of(0.1, 0.2)
    assert of(0.2, 0.1).startswith("The equations do NOT beat LIME's linear fit")
    assert of(1.5, 2.0, holds=None).startswith("The equations do NOT beat the mean output")
    assert "That is above 0.1; at the neighbours in the text it is 3." in of(1.5, 2.0, holds=None)
    assert "control does BETTER" in of(0.1, 0.2, shuffled=0.5)


class Square(nn.Module):
    """A feed-forward with one square in it, of 32 channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = (part.to(x) for part in (draw(12, 32), draw(13, 32)))
        return (x @ a).square()[..., None] * b


def test_a_planted_feed_forward_of_a_model_is_found_around_a_token(llama, tokenizer, tmp_path) -> None:
    llama.model.layers[1].mlp = Square()
    asked = {"text": "def f(x): return", "neighbours": 16, "points": 256, "token": 2}
    result = explain(
        llama, tool="slime", sites="layers.*.ffn", tokenizer=tokenizer, tokens=512, progress=False,
        out=tmp_path / "o", settings=asked,
    )  # fmt: skip
    found = result["survey"]
    assert found["tokens"][found["token"]] == tokenizer.decode([tokenizer(asked["text"])["input_ids"][2]])
    row = found["sites"]["layers.1.ffn"]
    assert row["errors"]["1"]["equations"] < 1e-9 < 1e-4 < row["errors"]["1"]["linear"]
    assert row["variables"][0]["share"] == pytest.approx(1.0, abs=1e-6)
    assert row["holds"] == 8
    other = found["sites"]["layers.0.ffn"]["errors"]["1"]
    assert 1e-9 < other["equations"] < other["mean"]
    assert [verdict.partition(":")[0] for verdict in found["verdicts"]] == list(found["sites"])
    page = (tmp_path / "o" / "report.html").read_text()
    for title in ("Around the token", "The equations", "The variables", "How far they hold", "nearer than LIME"):
        assert title in page


def test_what_has_no_equations_is_left_out_and_alone_it_is_refused(monkeypatch, llama, tokenizer, tmp_path) -> None:
    centres = []

    def only_the_square(function, centre, near, asked):
        centres.append(centre)
        if not torch.allclose(function(centre[None]), llama.model.layers[1].mlp(centre[None]), atol=1e-3):
            raise Flat("there is nothing to see")
        return fit(function, centre, near, asked)

    llama.model.layers[1].mlp = Square()
    monkeypatch.setattr("layersmith.explaining.slime.fit", only_the_square)
    asked = {"tool": "slime", "tokenizer": tokenizer, "tokens": 512, "progress": False}
    asked["settings"] = {"neighbours": 16, "points": 64, "text": "def f(x): return", "token": -2}
    found = explain(llama, sites="layers.*.ffn", out=tmp_path / "o", **asked)["survey"]
    entered = []
    handle = llama.model.layers[1].mlp.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    llama(torch.tensor([tokenizer("def f(x): return")["input_ids"]]))
    handle.remove()
    assert torch.allclose(centres[1].float(), entered[0][0, -2], atol=1e-5)
    assert list(found["sites"]) == ["layers.1.ffn"]
    assert found["left_out"] == {"layers.0.ffn": "there is nothing to see"}
    assert "layers.0.ffn is left out: there is nothing to see." in found["sections"][0]["text"]
    with pytest.raises(UserError, match=r"layers\.0\.ffn: there is nothing to see"):
        explain(llama, sites="layers.0.ffn", out=tmp_path / "p", **asked)
    asked["settings"] = {"neighbours": 4096}
    with pytest.raises(UserError, match="fewer than the neighbours asked for"):
        explain(llama, sites="layers.1.ffn", out=tmp_path / "q", **asked)


@pytest.mark.parametrize("shape", ["vit", "t5"])
def test_a_model_that_reads_no_running_text_is_refused(shape, tokenizer, tmp_path) -> None:
    asked = {"tool": "slime", "tokens": 256, "progress": False, "out": tmp_path / "o"}
    with pytest.raises(UserError, match="reads one running text"):
        explain(tiny(shape), tokenizer=tokenizer if shape == "t5" else None, **asked)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"radius": 0.0}, "radius is a share of the neighbours' spread above 0"),
        ({"radius": float("nan")}, "radius is a share"),
        ({"points": 63}, "points must be at least 64"),
        ({"inputs": 17}, "more than 16 variables"),
        ({"text": " "}, "text is empty"),
        ({"engine": "pysr"}, "no engine 'pysr'"),
    ],
)
def test_settings_that_cannot_be_are_told_in_words(given, told) -> None:
    with pytest.raises(UserError, match=told):
        Slime().check(settings(**given))


def test_a_missing_engine_is_told_where_it_is_asked_for(monkeypatch) -> None:
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    Slime().check(settings())
    with pytest.raises(MissingExtra, match=r"pip install '.\[formula\]'"):
        Slime().check(settings(engine="pyoperon"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--set radius=-1", "above 0, not -1"),
        ("--set token=99", "There is no token 99 in the text. It has "),
        ("--sites layers.99.ffn", "layers.99.ffn"),
        ("--sites layers.0.attn", "those of feed-forwards"),
    ],
)
def test_a_slip_on_the_command_line_is_one_paragraph_and_status_two(line, told, tmp_path) -> None:
    given = ["explain", "pocket", "--with", "slime", "--quiet", "--tokens", "256", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*given, *line.split()], env={"COLUMNS": "1000"})
    assert done.exit_code == 2, done.output
    assert told in done.output
    assert "Traceback" not in done.output
