"""The bookkeeping of the comparison with other runtimes; what they really take is measured by hand."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("peers")
    finally:
        sys.path.remove(str(BENCHMARKS))


class Fake:
    """A peer that takes `seconds` for a step, drifting with the round like a machine does; or fails when asked."""

    def __init__(self, seconds: float, clock: list[int], fails: str = ""):
        self.seconds, self.clock, self.fails, self.asked = seconds, clock, fails, []

    def ask(self, what: str, *about: Any) -> Any:
        self.asked.append(what)
        if what == self.fails:
            raise RuntimeError(f"{what} is beyond it")
        if what == "step":
            self.clock[0] += 1
            return self.seconds * (1 + self.clock[0] // 3)  # three peers: the same for all within a round
        return {"compare": {"kl": 0.5, "agreement": 0.9}, "similarity": {"spearman": 0.8}}.get(what)


@pytest.fixture
def three() -> dict[str, Fake]:
    clock = [-1]
    return {"original": Fake(1.0, clock), "fast": Fake(0.25, clock), "slow": Fake(3.0, clock)}


def rows_of(workers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"variant": name, "missing": ""} for name in workers}


def test_ratios_are_formed_within_rounds(peers: ModuleType, three: dict[str, Fake]) -> None:
    """The machine becomes slower from round to round; ratios do not see it."""
    rows = rows_of(three)
    peers.time_all(three, rows, "prefill=1x512", rounds=7, rest=0)
    assert rows["original"]["prefill_ratio"] == 1
    assert rows["fast"]["prefill_ratio"] == pytest.approx(0.25)
    assert rows["slow"]["prefill_ratio"] == pytest.approx(3.0)
    assert rows["slow"]["prefill_ms"] == pytest.approx(3000 * 4)  # the middle one of seven rounds
    assert all(worker.asked.count("step") == 7 for worker in three.values())
    assert rows["fast"]["prefill_at"] == "prefill=1x512"


def test_a_phase_that_a_peer_has_not_is_said_and_the_others_go_on(peers: ModuleType, three: dict[str, Fake]) -> None:
    three["fast"].fails = "prepare"
    three["fast"].clock = three["original"].clock = three["slow"].clock = [0]
    rows = rows_of(three)
    peers.time_all(three, rows, "decode=1x128", rounds=2, rest=0)
    assert rows["fast"]["decode_missing"] == "prepare is beyond it"
    assert "decode_ms" not in rows["fast"]
    assert "step" not in three["fast"].asked
    assert rows["slow"]["decode_missing"] == ""
    assert rows["slow"]["decode_ratio"] > 0


def test_encoders_are_judged_by_a_file_of_sentences(peers: ModuleType, three: dict[str, Fake]) -> None:
    three["slow"].fails = "similarity"
    rows = rows_of(three)
    peers.judge(three, rows, "some/pairs.csv")
    assert (rows["fast"]["spearman"], rows["fast"]["data"]) == (0.8, "pairs.csv")
    assert rows["slow"]["missing"] == "similarity is beyond it"


@pytest.mark.parametrize("sign", [1, -1])
def test_sentences_are_as_alike_as_the_cosine_of_their_means(peers: ModuleType, tmp_path: Path, sign: int) -> None:
    """An encoder that turns a sentence by its length is right about scores that fall with the difference of lengths."""
    import torch

    import layersmith

    class Turning:
        def outputs(self, ids: list[int]) -> torch.Tensor:
            angle = torch.tensor(0.02 * len(ids))
            return torch.stack((angle.cos(), angle.sin())).expand(len(ids), 2)

    worker = sys.modules["peer_worker"]
    desk = worker.Desk("original", "pocket", tmp_path, 1)
    desk.runner = Turning()
    _, tokenizer = layersmith.load("pocket")
    texts = ["the end", "the end of it", "the end of all of it and of us", "never again, and never ever again here"]
    pairs = [
        (texts[0], text, abs(len(tokenizer(text)["input_ids"]) - len(tokenizer(texts[0])["input_ids"])))
        for text in texts
    ]
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([(one, other, -sign * apart) for one, other, apart in pairs])
    assert desk.similarity(str(tmp_path / "pairs.csv"))["spearman"] == pytest.approx(sign)


def test_everyone_is_compared_on_the_originals_windows(
    peers: ModuleType, three: dict[str, Fake], tmp_path: Path
) -> None:
    three["slow"].fails = "compare"
    rows = rows_of(three)
    peers.compare(three, rows, "text", 4, tmp_path)
    assert three["original"].asked[:2] == ["windows", "keep_logits"]
    assert rows["fast"]["kl"] == 0.5
    assert rows["fast"]["data"] == "text"
    assert "kl" not in rows["slow"]
    assert rows["slow"]["missing"] == "compare is beyond it"


def test_names_choose_peers_and_the_original_is_always_there(peers: ModuleType) -> None:
    assert peers._chosen("llama", False)[0] == "original"
    assert all("llama" in name for name in peers._chosen("llama", False)[1:])
    assert not any("compile" in name for name in peers._chosen(None, False))
    assert any("compile" in name for name in peers._chosen(None, True))
    with pytest.raises(SystemExit, match=r"lama\.cpp"):
        peers._chosen("lama.cpp 5", False)


def test_five_lines_round_as_they_say(peers: ModuleType) -> None:
    import torch

    makers = sys.modules["peer_makers"]
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 32)
    x = torch.randn(2, 5, 48)
    with torch.no_grad():
        found, exact = makers.FiveLines(linear)(x), linear(x)
    assert found.shape == exact.shape
    error = float((found - exact).norm() / exact.norm())
    assert 1e-4 < error < 0.02


@pytest.mark.real
def test_a_whole_run_of_cheap_peers(peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["record"], "RESULTS", tmp_path)
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # the processes it starts look where this one does
    given = ["pocket", "--peers", "bfloat16,five lines", "--rounds", "2", "--windows", "2", "--threads", "1"]
    path = peers.main([*given, "--ours", str(tmp_path / "nothing")])
    rows = {row["variant"]: row for row in csv.DictReader(path.open())}
    assert next(iter(rows)) == "original"
    assert float(rows["original"]["kl"]) == pytest.approx(0, abs=1e-6)
    assert 0 < float(rows["model.bfloat16()"]["kl"]) < 0.01
    assert float(rows["five lines: int8 by torch._int_mm"]["prefill_ratio"]) > 0
    assert float(rows["five lines: int8 by torch._int_mm"]["decode_ms"]) > 0
    [missing] = [row["missing"] for name, row in rows.items() if name.startswith("layersmith ")]
    assert "UserError" in missing
    assert rows["original"]["instruction_sets"]
    assert rows["original"]["threads"] == "1"
