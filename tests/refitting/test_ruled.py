"""Ladders of methods with a rule: asked for as few mixes as the budget needs, each measured once, one ladder a kind."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from layersmith.errors import UserError
from layersmith.refitting.search import ruled
from layersmith.refitting.search.uniform import ladders
from layersmith.runs.workspace import Workspace

KINDS = {"layers.0.ffn": "ffn", "layers.1.ffn": "ffn", "layers.0.attn": "mixer", "layers.1.attn": "mixer"}
HARM = {"layers.0.ffn": 0.3, "layers.1.ffn": 0.1, "layers.0.attn": 0.5, "layers.1.attn": math.inf}


def candidate(site, method="shed"):
    return SimpleNamespace(id=f"{site}/{method}", site=site, sites=[site], method=method, settings={}, refused=None)


class Run:
    """As much of a run as the ladders of rules look at: a mix costs a quarter less for every site that is gone."""

    def __init__(self, folder, monkeypatch, budget):
        self.found = [*map(candidate, KINDS), candidate("layers.0.ffn", "drop")]
        self.workspace, self.measured = Workspace(folder, {}), []
        for each in self.found:
            each.divergence = each.local_error = 0.1
        library = SimpleNamespace(methods=["drop", "shed", "shed+bf16"], usable=lambda: self.found)
        costs = SimpleNamespace(predicted=lambda mix: 1 - 0.25 * len(mix))
        self.ctx = SimpleNamespace(
            workspace=self.workspace,
            settings=SimpleNamespace(budget=budget),
            anatomy=SimpleNamespace(site=lambda name: SimpleNamespace(kind=KINDS[name])),
            bar=SimpleNamespace(note=lambda text: None),
            model=None,
            batches=SimpleNamespace(search=[]),
        )
        self.all = SimpleNamespace(
            built=library, costs=costs, shares=lambda cost, ratio, told: dict.fromkeys(told, cost)
        )
        self.all.replacement = lambda ids: ids
        monkeypatch.setattr(ruled, "first_rows", lambda batches, every: [1])
        monkeypatch.setattr(ruled, "Part", lambda rows: SimpleNamespace(of=lambda batches: [(0, {})]))
        monkeypatch.setattr(ruled, "outputs", lambda model, batches: [])
        monkeypatch.setattr(ruled, "joint_divergence", self.divergence)

    def divergence(self, model, ids, batches, expected):
        self.measured.append(ids)
        harm = sum(HARM[name.partition("/")[0]] for name in ids)
        if math.isinf(harm):
            raise UserError("outputs are not finite")
        return SimpleNamespace(value=harm)

    def ladders(self):
        return {ladder.label: [rung.ids for rung in ladder.rungs] for ladder in ruled.ruled(self.ctx, self.all)}


@pytest.mark.parametrize(("budget", "rungs"), [(0.9, 1), (0.8, 2), (0.5, 2)])
def test_a_ladder_ends_where_the_budget_is_met_with_something_to_spare(tmp_path, monkeypatch, budget, rungs):
    run = Run(tmp_path / "run", monkeypatch, {"params": budget})
    found = run.ladders()
    assert found.keys() == {"shed ffn", "shed mixer"}
    assert found["shed ffn"] == [["layers.1.ffn/shed"], ["layers.1.ffn/shed", "layers.0.ffn/shed"]][:rungs]
    assert found["shed mixer"][0] == ["layers.0.attn/shed"], "what is not finite is never the least harm"
    run.workspace.close()


def test_what_was_measured_is_kept(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", monkeypatch, {"params": 0.5})
    first = run.ladders()
    asked = len(run.measured)
    assert run.ladders() == first
    assert len(run.measured) == asked
    run.workspace.close()


def test_methods_with_a_rule_are_in_no_other_ladder(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", monkeypatch, {"params": 0.5})
    assert {ladder.method for ladder in ladders(run.all.built, run.ctx.anatomy)} == {"drop"}
    run.all.built.methods = ["drop"]
    assert run.ladders() == {}
    assert not run.measured
    run.workspace.close()
