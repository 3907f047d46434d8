"""What `layersmith explain` prints: every figure of the map whatever the terminal's width, and the judging table."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from rich.console import Console

from layersmith.commands.explain import TABLE_ROWS, _print, _print_map, _print_site, _print_table
from layersmith.explaining.result import ExplainResult

TITLES = ["block linear", "max/median", "attn first sink", "ffn fragile", "ffn rank used"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_figure_and_no_word_of_the_map_is_cut(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": f"layers.{n}", "values": [0.25 + n, None, 1e-7, -0.5, 12345.0]} for n in range(2)]
    drawn = {"columns": [{"title": title} for title in TITLES], "rows": rows}
    _print_map(Console(width=width), "The map", drawn)
    out = capsys.readouterr().out
    assert "…" not in out
    assert all(word in out for title in TITLES for word in title.split())
    for figure in ("0.25", "1.2", "1e-07", "-0.5", "1.2e+04", "–", "layers.1"):
        assert figure in out
    assert max(map(len, out.splitlines())) <= width


def test_a_site_is_told_with_its_floors_and_verdicts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    row = {"local_error": 0.5, "divergence": 0.25, "loss_recovered": None, "loss_recovered_from_mean": 0.75}
    row |= {"agreement": 0.125, "params": 1234}
    site = {"name": "layers.1.ffn", "rank": 3, "size": {"features": 4096}, "verdicts": ["It does NOT [beat]."]}
    _print_site(Console(width=120), {**site, "table": {"explanation": row, "rank_r": row}}, "pocket")
    out = capsys.readouterr().out
    for told in ("pocket: layers.1.ffn", "rank 3", "0.2500", "75.0%", "12.5%", "1,234", "–", "4096 features", "[beat]"):
        assert told in out


def test_a_table_of_a_survey_is_printed_and_what_is_left_out_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[f"layers.{n}.ffn", 1234.5678, "[b]"] for n in range(TABLE_ROWS + 3)]
    _print_table(Console(width=80), "Certified bounds", {"columns": ["site", "width", "said"], "rows": rows})
    out = capsys.readouterr().out
    for told in ("Certified bounds", "1235", "[b]", f"layers.{TABLE_ROWS - 1}.ffn", "3 more rows"):
        assert told in out
    assert f"layers.{TABLE_ROWS}.ffn" not in out


def test_the_verdicts_of_a_survey_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _print(ExplainResult(tmp_path, {"survey": {"sections": [], "verdicts": ["It does NOT [beat]."]}}))
    assert "It does NOT [beat]." in capsys.readouterr().out


def test_words_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    row = dict.fromkeys(["local_error", "divergence", "loss_recovered", "loss_recovered_from_mean", "agreement"], 0.5)
    table = {"columns": ["", "in words", "score"], "rows": [["feature 7", "[bold]Months[/bold] of the year.", "0.83"]]}
    pages = {"sections": [{"title": "others", "table": {}}, {"title": "Features in words", "table": table}]}
    site = {"name": "layers.1.ffn", "rank": 3, "size": {}, "verdicts": [], "pages": pages}
    _print_site(Console(width=120), {**site, "table": {"zero": {**row, "params": 1}}}, "pocket")
    out = capsys.readouterr().out
    for told in ("Features in words", "feature 7", "[bold]Months[/bold] of the year.", "0.83"):
        assert told in out


def test_nobody_at_a_writers_address_is_one_paragraph_at_once(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        line = ["pocket", "--with", "dictionary", "--words-by", address, "--words-model", "m", "--quiet"]
        start = time.monotonic()
        status, out, err = run("explain", *line, "--out", str(tmp_path / "out"))
    assert status == 2
    assert not out
    sent, told = err.split("\n", 1)
    assert sent == f"Passages of the text that is read are sent to {address}."
    assert " ".join(told.split()).startswith(f"The writer at {address} cannot be reached: ")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    assert time.monotonic() - start < 60
