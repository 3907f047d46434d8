"""Times in decode: an original by a watch inside whole steps, an alternative by what whole steps gain with it."""

import pytest
import torch
from torch import nn

from layersmith.anatomy import find_sites, replacement_for
from layersmith.cost import Cost
from layersmith.measuring.cost import read
from layersmith.measuring.latency import Timing
from layersmith.measuring.shape import Shape
from layersmith.refitting.candidate import Library
from layersmith.refitting.score import costs, in_place
from layersmith.refitting.score.in_place import Gains, seconds_inside
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama
from tests.refitting.test_clocks import work
from tests.refitting.test_costs import keep, part

DECODE = Shape("decode", 1, 12)


class Busy(nn.Module):
    """Takes `cost` seconds of the test's own clock."""

    now = 0.0

    def __init__(self, cost):
        super().__init__()
        self.cost = cost

    def forward(self, x):
        Busy.now += self.cost
        return x


class Steps(nn.Module):
    """Two modules, the second of which runs twice, and work that belongs to neither."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.idle, self.rest = Busy(3.0), Busy(5.0), Busy(9.0), Busy(100.0)

    def forward(self, x):
        return self.rest(self.second(self.second(self.first(x))))


def test_a_watch_counts_all_calls_of_a_module_and_nothing_else(monkeypatch):
    monkeypatch.setattr(in_place.time, "perf_counter", lambda: Busy.now)
    model = Steps()
    found = seconds_inside(model, ["first", "second", "idle"], {"x": torch.zeros(1)}, 3, "cpu")
    assert found == {"first": 3.0, "second": 10.0}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.fixture
def library(tmp_path):
    workspace = Workspace(tmp_path / "run", {})
    yield Library(workspace, [])
    workspace.close()


def zeros(library, model, names):
    anatomy = find_sites(model)
    return [keep(library, model, anatomy, n, replacement_for(model, anatomy.site(n), part("zero"))) for n in names]


@pytest.mark.parametrize("most", [2, 16])
def test_a_gain_is_shared_by_all_that_stand_in_place(library, monkeypatch, most):
    """A clock on which the original takes 10 seconds, and each dropped feed-forward saves 1.5 of them."""

    def latency(steps, rounds, warmup, device):
        dropped = {name: work(step).count("Zero") for name, step in steps.items()}
        counts.append(dropped["changed"])
        assert dropped["original"] == 0
        drift = [0.0, 7.0, -3.0]  # of both alike
        return {n: Timing(10.0, 10.0, 10.0, 3, tuple(10.0 - 1.5 * c + d for d in drift)) for n, c in dropped.items()}

    counts = []
    monkeypatch.setattr(in_place, "latency", latency)
    monkeypatch.setattr(in_place, "MOST_SITES", most)
    model = tiny_llama(layers=4)
    alike = zeros(library, model, [f"layers.{i}.ffn" for i in range(4)])
    gains = Gains(model, DECODE, read(model, DECODE), library)
    assert gains.seconds([*alike, alike[0]], 3, "cpu") == -1.5  # the same site twice counts once
    assert counts == [min(most, 4)]


@pytest.mark.parametrize(("gained", "expected"), [(-0.002, 3.0), (0.001, 6.0), (-1.0, 0.0)])
def test_an_alternative_costs_what_the_original_did_and_what_the_step_gains(library, monkeypatch, gained, expected):
    monkeypatch.setattr(costs, "seconds_inside", lambda model, paths, *rest: dict.fromkeys(paths, 0.005))
    monkeypatch.setattr(costs.Gains, "seconds", lambda self, alike, rounds, device: gained)
    model = tiny_llama(layers=2)
    (dropped,) = zeros(library, model, ["layers.1.ffn"])
    found = costs.measure_costs(model, find_sites(model), library, DECODE, library.workspace, rounds=1)
    assert found.of_site["layers.0.attn"].latency_ms == pytest.approx(5.0)
    assert dropped.cost.latency_ms == pytest.approx(expected)
    assert isinstance(found.total, Cost)
    assert found.total.latency_ms > 0.0
