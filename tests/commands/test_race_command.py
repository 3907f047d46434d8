"""`layersmith race`: a whole small race, and slips that are answered before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run

SMALL = ("--steps", "8", "--seeds", "2", "--workers", "1", "--lr", "1e-2", "--budget", "params=20k", "--quiet")


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layersmith.racing.train.TEST_EXAMPLES", 128)
    monkeypatch.setattr("layersmith.racing.train.VALID_EXAMPLES", 128)


def test_a_whole_race_of_few_steps(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, shown, _ = run("race", "--mixer", "deltanet,softmax_attention", "--out", str(out), *SMALL)
    assert status == 0
    for told in ("deltanet", "softmax_attention", "random", "oracle", "parameters", "report.html"):
        assert told in shown
    assert {path.name for path in out.iterdir()} == {"result.json", "leaderboard.csv", "report.html", "workspace"}
    again, shown, _ = run("race", "--mixer", "deltanet,softmax_attention", "--out", str(out), *SMALL, "--json")
    assert again == 0
    assert json.loads(shown) == json.loads((out / "result.json").read_text())


def test_a_race_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("entrants:\n  one: {mixer: deltanet}\n  two: {ffn: mlp}\nclaim: two is faster\n")
    status, shown, err = run("race", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out"), *SMALL)
    assert status == 0, err
    assert "one" in shown
    assert "two" in shown
    assert "two is faster" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "recal"], "Did you mean 'recall'"),
        (["--mixer", "deltanet,softmax_atention"], "Did you mean 'softmax_attention'"),
        (["--budget", "params"], "NAME=NUMBER"),
        (["--lr", "fast"], "no list of numbers"),
        (["nothing.yaml"], "cannot be read"),
    ],
    ids=str,
)
def test_slips_are_answered_in_words(run: Run, arguments: list[str], said: str, tmp_path: Path) -> None:
    status, _, err = run("race", *arguments, "--out", str(tmp_path / "out"))
    assert status == 2
    assert said in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_a_slip_is_answered_before_torch_is_imported() -> None:
    code = (
        "import sys; sys.argv = ['layersmith', 'race', '--mixer', 'deltanet,nothing']\n"
        "from layersmith.cli import main\n"
        "try: main()\n"
        "except SystemExit as stopped: print(stopped.code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"
