"""Two processes under torchrun train what one does: the same losses, to rounding.

Rounding grows from step to step, the faster the larger the learning rate: at 1e-2 it reaches 3e-5 after 27 steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layersmith.errors import UserError
from layersmith.racing import together
from layersmith.racing.pipeline import race
from layersmith.racing.task import IGNORED, Batch

RACE = """
task: recall
task_settings: {vocabulary: 16, pairs: 2, tokens: 12}
entrants: {delta: {mixer: deltanet}, muon: {mixer: softmax_attention, optimizer: muon}, mkor: {optimizer: mkor}}
budget: {params: 12000}
lr: [0.001]
steps: 30
batch: 8
seeds: 1
"""


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")


def test_alone_nothing_is_shared() -> None:
    batch = Batch(torch.arange(8).view(4, 2), torch.zeros(4))
    assert together.size() == 1
    assert torch.equal(together.share(batch).inputs, batch.inputs)


def test_shares_make_up_the_batch_and_weigh_what_they_are_asked(second: None, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.tensor([[1, IGNORED], [1, 2], [IGNORED, IGNORED], [3, 4]])
    batch, losses = Batch(torch.arange(8).view(4, 2), targets), torch.tensor([5.0, 7.0])
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append((mine := together.share(batch), together.weight(mine, batch)))
    assert sorted(torch.cat([share.inputs for share, _ in shares])[:, 0].tolist()) == [0, 2, 4, 6]
    # One target of the first share and four of the second: the mean over all five from the two means.
    mean = sum(weight * float(loss) for (_, weight), loss in zip(shares, losses, strict=True)) / 2
    assert mean == pytest.approx((1 * 5.0 + 4 * 7.0) / 5)


def test_what_cannot_be_shared_is_refused(second: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Under torchrun"):
        race(mixer=["deltanet", "softmax_attention"], budget={"seconds": 1.0}, out=tmp_path / "out")


@pytest.mark.real
def test_two_processes_come_to_the_losses_of_one(tmp_path: Path) -> None:
    (tmp_path / "race.yaml").write_text(RACE)
    run = ["-m", "layersmith", "race", str(tmp_path / "race.yaml"), "--workers", "1", "--quiet", "--json", "--out"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in ([*run, str(tmp_path / "one")], [*torchrun, *run, str(tmp_path / "two")]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count('"schema"') == 1, "one process tells"
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    for name in ("delta", "muon", "mkor"):
        (a,), (b,) = (next(row["runs"] for row in found["entrants"] if row["name"] == name) for found in (one, two))
        tolerance = 1e-5 if name == "delta" else 2e-2  # Muon rounds to bfloat16, which makes steps of rounding
        losses = [[point["loss"] for point in run["curve"]] + [run["loss"]] for run in (a, b)]
        assert losses[0] == pytest.approx(losses[1], abs=tolerance, rel=tolerance), name
