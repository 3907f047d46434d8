"""ACDC on the clock: a search that was stopped goes on at its reader, and its seconds add up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from layersmith.runs.workspace import Workspace

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
READERS = 6


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("acdc")
    finally:
        sys.path.remove(str(BENCHMARKS))


class Search:
    """Takes the edge of writer 0 away from every reader, a second each, until it is to stop."""

    def __init__(self, clock: list[float], stop: int | None = None) -> None:
        self.clock, self.stop, self.seen = clock, stop, []

    def prune_reader(self, graph, cases, keep: Tensor, now: float, reader: int, threshold: float, at_once: int):
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append(reader)
        self.clock[0] += 1.0
        keep = keep.clone()
        keep[0, reader] = False
        return keep, now + threshold


def test_a_stopped_search_goes_on(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = SimpleNamespace(
        edges=torch.ones(3, READERS, dtype=torch.bool), readers=[f"r{i}" for i in range(READERS)], at_once=lambda c: 8
    )
    clock = [0.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    first, second = Search(clock, stop=4), Search(clock)
    workspace = Workspace(tmp_path / "run", {})
    monkeypatch.setattr(benchmark, "acdc", first)
    with pytest.raises(KeyboardInterrupt):
        benchmark.pruned(graph, [None], 0.01, workspace)
    clock[0] = 1000.0
    monkeypatch.setattr(benchmark, "acdc", second)
    keep, seconds = benchmark.pruned(graph, [None], 0.01, workspace)
    workspace.close()
    assert (first.seen, second.seen) == ([5, 4, 3, 2], [1, 0])
    assert seconds == pytest.approx(READERS)
    assert not keep[0].any()
    assert keep[1:].all()


def test_other_prompts_are_another_search(benchmark: ModuleType) -> None:
    def prompts(token: int, right: int) -> SimpleNamespace:
        marks = torch.zeros(1, 4, dtype=torch.bool)
        marks[0, right] = True
        return SimpleNamespace(
            clean={"input_ids": torch.tensor([[1, token]])},
            corrupt={"input_ids": torch.tensor([[2, token]])},
            right=marks,
            wrong=~marks,
        )

    told = [benchmark.digest([prompts(*each)]) for each in ((3, 0), (3, 0), (4, 0), (3, 1))]
    assert told[0] == told[1]
    assert len(set(told)) == 3
