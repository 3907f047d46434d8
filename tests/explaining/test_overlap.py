"""Two circuits side by side: the same one for two alphabets, and two for two questions of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.errors import UserError
from layersmith.explaining.circuits.prompts import Prompts
from layersmith.explaining.constructions.induction_head import InductionHead
from layersmith.explaining.overlap import compare, overlap
from layersmith.explaining.pipeline import explain
from layersmith.explaining.survey import Subject
from layersmith.runs.workspace import Workspace
from tests.explaining.test_circuit import PLANTED, SYMBOLS, prompts_of

SETTINGS: dict[str, Any] = {"ablation": "resample", "steps": 16, "random": 4, "faithful": 0.95}


def lists(symbols: range, seed: int) -> list[list[int]]:
    """Six lists of six different symbols."""
    draws = torch.Generator().manual_seed(seed)
    return [[symbols[i] for i in torch.randperm(len(symbols), generator=draws).tolist()[:6]] for _ in range(6)]


def asked(rows: list[list[int]], others: list[list[int]], place: int, other: int) -> Prompts:
    """What comes after the symbol at `place` of each row; the corrupt prompts have other lists or ask elsewhere."""
    clean = [[SYMBOLS, *row, row[place]] for row in rows]
    corrupt = [[SYMBOLS, *row, row[other]] for row in others]
    right, wrong = [row[place + 1] for row in rows], [row[other + 1] for row in others]
    return prompts_of(clean, corrupt, right, wrong, SYMBOLS + 1)


def compared(first: Prompts, second: Prompts, folder: Path) -> dict[str, Any]:
    construction = InductionHead()
    model = construction.build(construction.settled({"symbols": SYMBOLS}))
    anatomy = find_sites(model, {"input_ids": first.clean["input_ids"]})
    workspace = Workspace(folder, {"a": "test"})
    subject = Subject(
        model=model,
        tokenizer=None,
        anatomy=anatomy,
        replay=Replay(model, anatomy, first.clean),
        sites=list(anatomy),
        fit=[first.clean],
        judge=[second.clean],
        workspace=workspace,
        tell=lambda text, done, every: None,
    )
    try:
        return compare(subject, [[first], [second]], SETTINGS)
    finally:
        workspace.close()


def test_overlap_is_the_share_of_common_edges() -> None:
    a, b = torch.tensor([[1, 1, 0], [0, 1, 0]]).bool(), torch.tensor([[0, 1, 1], [0, 1, 1]]).bool()
    assert overlap(a, b) == pytest.approx(2 / 5)
    assert overlap(a, a) == 1.0
    assert overlap(a, ~a) == 0.0
    assert overlap(a & ~a, a & ~a) == 1.0


def test_two_alphabets_run_over_one_circuit(tmp_path) -> None:
    """A wired head does with the first symbols what it does with the last ones."""
    low, high = lists(range(8), 0), lists(range(8, 16), 1)
    first = asked(low, lists(range(8), 2), 1, 4)
    second = asked(high, lists(range(8, 16), 3), 3, 0)
    found = compared(first, second, tmp_path)
    assert found["size"] == 5
    assert {tuple(edge) for edge in found["shared"]} == PLANTED
    assert found["overlap"] == 1.0
    assert found["random_overlap"] < 0.5
    assert found["alone"] == [[], []]
    for whose in ("first", "second"):
        for on in ("first", "second"):
            assert found["crossed"][whose][on] == pytest.approx(1.0, abs=1e-6)
    assert abs(found["crossed"]["random"]["first"]) < 0.5


def test_two_questions_run_over_two_circuits(tmp_path) -> None:
    """Where only the question differs its edges matter, where only the list differs those of the list do."""
    rows = lists(range(16), 0)
    question = asked(rows, rows, 1, 4)
    turned = [[row[i] for i in (3, 1, 5, 0, 4, 2)] for row in rows]  # the symbol stays, what follows it does not
    listed = asked(rows, turned, 1, 1)
    found = compared(question, listed, tmp_path)
    assert found["overlap"] < 1.0
    assert ["layers.1.attn", "logits"] in found["shared"]
    assert found["crossed"]["first"]["first"] >= 0.95
    assert found["crossed"]["second"]["second"] >= 0.95
    assert found["crossed"]["first"]["second"] < 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": "a.jsonl"}, "give both prompts=FILE and against=FILE"),
        ({"other": "nothing"}, "Unknown prompt task 'nothing'"),
        ({"faithful": 0.0}, "faithful is a share"),
        ({"random": 0}, "random must be at least 1"),
        ({"prompts": "/nowhere.jsonl", "against": "/nowhere.jsonl"}, "cannot be read"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(settings, message, llama, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        explain(llama, tool="overlap", tokenizer=tokenizer, out=tmp_path / "o", settings=settings, progress=False)
    assert not (tmp_path / "o").exists()
