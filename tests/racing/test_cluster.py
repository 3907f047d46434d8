"""A race on a Ray cluster of several nodes, one of which is killed in the middle, ends as one on this machine does."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import layersmith
from layersmith.errors import MissingExtra, UserError
from layersmith.racing import options
from layersmith.racing.options import RaceConfig, check
from layersmith.racing.result import RaceResult

SMALL: dict[str, Any] = {
    "mixer": ["deltanet", "softmax_attention"],
    "task_settings": {"vocabulary": 16, "pairs": 2, "tokens": 12},
    "budget": {"params": 12_000},
    "steps": 20,
    "batch": 8,
    "progress": False,
}


def timeless(result: RaceResult) -> list[dict[str, Any]]:
    """The leaderboard without what a clock says."""
    rows = json.loads(json.dumps(result.leaderboard))
    for row in rows:
        row["seconds"] = 0
        for run in row["runs"]:
            for point in run["curve"]:
                point["seconds"] = 0
    return rows


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[ray\]'"):
        check(RaceConfig(ray="auto"))


@pytest.mark.real
def test_a_node_lost_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    from ray.cluster_utils import Cluster

    alone = layersmith.race(out=tmp_path / "alone", workers=1, **SMALL)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        doomed = cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        killed = []

        def kill() -> None:
            trained = tmp_path / "out" / "workspace" / "tuned"
            while not list(trained.glob("*.json")):  # when something came back, both nodes are at work
                time.sleep(0.05)
            cluster.remove_node(doomed, allow_graceful=False)
            killed.append(doomed)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        result = layersmith.race(out=tmp_path / "out", ray=cluster.address, **SMALL)
        killer.join(60)
        assert killed
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert timeless(result) == timeless(alone)


@pytest.mark.real
def test_no_cluster_at_an_address_is_said(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    with pytest.raises(UserError, match="No Ray cluster answers at 'auto'"):
        layersmith.race(out=tmp_path / "out", ray="auto", **SMALL)
