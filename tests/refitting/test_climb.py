"""Where the ladders of uniform baselines are left, and which of them are measured in full."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from layersmith.measuring.shape import Shape
from layersmith.refitting.candidate import Candidate, Library, pack
from layersmith.refitting.score.costs import measure_costs
from layersmith.refitting.search import baselines, clock
from layersmith.refitting.search.climb import LOOKS, Look, climb_together, climbing
from layersmith.refitting.search.found import Found
from layersmith.refitting.search.uniform import Ladder, Rung, ladders
from layersmith.refitting.search.variants import Clocked, joint_divergence
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import token_batches


def rungs(count):
    return [Rung({"strength": i}, [SimpleNamespace(id=f"r{i}")]) for i in range(count)]


def climb(ladder, predicted, budget, gained, ratios, read, hopeless=False):
    """Where a climb ends by a clock that says `ratios[i]` of rung i and writes down what it was asked."""

    def looked(asked):
        index = asked["ladder"].settings["strength"]
        read.append(index)
        return {"ladder": Look(ratios[index], hopeless)}

    return climb_together({"ladder": climbing(ladder, predicted, budget, gained)}, looked)["ladder"]


def test_a_baseline_is_clocked_to_the_budget_itself():
    """Predicted latencies are 20% too low here, whatever the mix's own correction was."""
    predicted = [{"latency": share} for share in (0.95, 0.85, 0.75, 0.65, 0.55)]
    real = [1.2 * share["latency"] for share in predicted]
    read = []
    found = climb(rungs(5), predicted, {"latency": 0.8}, 1.0, real, read)
    assert found.rung.settings == {"strength": 3}  # 0.78; the milder 2 is 0.90
    assert found.reach is None
    assert len(read) <= LOOKS


def test_a_baseline_is_not_left_stronger_than_it_need_be():
    predicted = [{"latency": share} for share in (0.95, 0.85, 0.75, 0.65)]
    read = []
    found = climb(rungs(4), predicted, {"latency": 0.8}, 1.2, [0.9, 0.78, 0.7, 0.6], read)
    assert found.rung.settings == {"strength": 1}
    assert len(read) <= LOOKS


def test_a_baseline_that_cannot_reach_the_budget_says_how_far_it_gets():
    predicted = [{"latency": share} for share in (0.9, 0.85, 0.79)]
    read = []
    found = climb(rungs(3), predicted, {"latency": 0.8}, 1.0, [0.95, 0.9, 0.84], read)
    assert found.reach == {"latency": 0.84}
    assert found.rung.settings == {"strength": 2}
    exact = climb(rungs(2), [{"params": 0.9}, {"params": 0.7}], {"params": 0.5}, 1.0, [], read)
    assert exact.reach == {"params": 0.7}
    met = climb(rungs(2), [{"params": 0.9}, {"params": 0.4}], {"params": 0.5}, 1.0, [], read)
    assert (met.reach, met.rung.settings) == (None, {"strength": 1})


def test_a_hopeless_baseline_is_left_at_the_first_rung_that_meets_the_budget():
    predicted = [{"latency": share} for share in (0.95, 0.85, 0.75, 0.65)]
    for hopeless, expected in [(False, [2, 1]), (True, [2])]:
        read = []
        found = climb(rungs(4), predicted, {"latency": 0.8}, 1.0, [0.9, 0.79, 0.7, 0.6], read, hopeless)
        assert (read, found.rung.settings) == (expected, {"strength": expected[-1]})
        assert found.reach is None
    read = []
    found = climb(rungs(4), predicted, {"latency": 0.8}, 1.0, [0.9, 0.88, 0.85, 0.7], read, hopeless=True)
    assert (found.rung.settings, found.reach) == ({"strength": 3}, None), "whether it meets the budget is still found"


def test_climbs_are_looked_at_together():
    """Every round looks at one rung of each ladder that goes on, and the climbs end as they would alone."""
    predicted = [{"latency": share} for share in (0.95, 0.85, 0.75, 0.65)]
    clocks = {"a": [0.9, 0.79, 0.7, 0.6], "b": [0.99, 0.9, 0.85, 0.81], "c": [0.9, 0.85, 0.78, 0.6]}
    rounds, alone = [], {}

    def looked(asked):
        rounds.append(sorted(asked))
        return {label: Look(clocks[label][rung.settings["strength"]]) for label, rung in asked.items()}

    climbs = {label: climbing(rungs(4), predicted, {"latency": 0.8}, 1.0) for label in clocks}
    together = climb_together(climbs, looked)
    assert rounds[0] == ["a", "b", "c"]
    assert len(rounds) <= LOOKS
    for label, ratios in clocks.items():
        alone[label] = climb(rungs(4), predicted, {"latency": 0.8}, 1.0, ratios, [])
    assert together == alone
    assert together["b"].reach == {"latency": 0.81}


def test_candidates_that_overlap_become_a_ladder_of_disjoint_ones():
    def span(name, first, blocks, harm):
        sites = [f"layers.{i}.ffn" for i in range(first, first + blocks)]
        return SimpleNamespace(
            id=name,
            sites=sites,
            site=sites[0],
            method="span",
            settings={"blocks": blocks},
            refused=None,
            divergence=harm,
            local_error=harm,
        )

    found = [span("a", 0, 2, 0.4), span("b", 1, 2, 0.2), span("c", 3, 1, 0.3), span("d", 0, 1, 0.5)]
    anatomy = SimpleNamespace(site=lambda name: SimpleNamespace(kind="ffn"))
    (ladder,) = ladders(SimpleNamespace(usable=lambda: found), anatomy)
    assert [rung.ids for rung in ladder.rungs] == [["b"], ["b", "c"], ["b", "c", "d"]]


def test_a_number_format_goes_over_all_kinds_of_sites_at_once():
    def at(site, method, harm):
        made = SimpleNamespace(id=f"{site}/{method}", sites=[site], site=site, method=method, settings={}, refused=None)
        made.divergence = made.local_error = harm
        return made

    kinds = {"layers.0.ffn": "ffn", "layers.0.attn": "mixer", "head": "head"}
    found = [at(s, m, h) for m in ("int8_dynamic", "drop") for s, h in zip(kinds, (0.2, 0.3, 0.1), strict=True)]
    anatomy = SimpleNamespace(site=lambda name: SimpleNamespace(kind=kinds[name]))
    climbed = {ladder.label: ladder.rungs for ladder in ladders(SimpleNamespace(usable=lambda: found), anatomy)}
    assert climbed.keys() == {"int8_dynamic everywhere", "drop ffn", "drop mixer", "drop head"}
    strongest = climbed["int8_dynamic everywhere"][-1].ids
    assert strongest == ["head/int8_dynamic", "layers.0.ffn/int8_dynamic", "layers.0.attn/int8_dynamic"]


SITE, NOISE = "layers.1.ffn", {"exact": 0.0, "close": 0.02, "far": 5.0}


class Planted:
    """Baselines of one rung each: a feed-forward with more and more noise on its output weights."""

    def __init__(self, activations, folder, monkeypatch, budget):
        self.workspace, self.clocked = Workspace(folder, {}), []
        library = Library(self.workspace, list(NOISE))
        view = activations.view(activations.anatomy.site("layers.1.ffn"))
        for method, noise in NOISE.items():
            operator = copy.deepcopy(view.ffn.operator)
            weight = operator.down.weight.data
            weight += noise * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            edits, tensors = pack(view.as_replacement(operator))
            planted = Candidate(f"{SITE}/{method}", [SITE], method, {}, edits, local_error=0.1)
            self.workspace.save_tensors(f"library/{planted.id}", tensors)
            library.candidates[planted.id] = planted
        shape, model = Shape("prefill", 1, 8), activations.replay.model
        costs = measure_costs(model, activations.anatomy, library, shape, self.workspace, rounds=1)
        self.found = Found(library, {}, costs, SimpleNamespace(chosen=[], front={}, effective_budget=budget))
        self.ctx = SimpleNamespace(
            model=model,
            shape=shape,
            settings=SimpleNamespace(budget=budget),
            workspace=self.workspace,
            anatomy=activations.anatomy,
            batches=SimpleNamespace(report=token_batches(2, rows=4, seed=9)),
            bar=SimpleNamespace(tell=lambda *told: None),
        )
        monkeypatch.setattr(clock, "clock_variants", self.clock)
        one_rung = [Ladder(c.method, c.method, [Rung({}, [c])]) for c in library.candidates.values()]
        monkeypatch.setattr(baselines, "ladders", lambda built, anatomy: one_rung)

    def clock(self, model, group, shape, rounds):
        self.clocked.append((sorted(group), rounds))
        return {name: Clocked(1.0, 0.7, rounds) for name in group}

    def __call__(self):
        found = {e["label"]: e for e in baselines.measure_baselines(self.ctx, self.found)["uniform"]}
        self.workspace.close()
        return found


@pytest.mark.parametrize("budget", [{"latency": 0.8}, {"params": 1.0}], ids=str)
def test_what_is_hopeless_is_clocked_and_measured_on_a_quarter_and_the_best_stays_the_best(
    activations, tmp_path, monkeypatch, budget
):
    cheap = Planted(activations, tmp_path / "cheap", monkeypatch, budget)
    found = cheap()
    timed = {name: rounds for group, rounds in cheap.clocked for name in group}  # the last clocking of each
    thorough = timed["uniform exact" if "params" in budget else "exact"]
    assert thorough > baselines.LOOK_ROUNDS
    assert timed["uniform far" if "params" in budget else "far"] == baselines.LOOK_ROUNDS
    shares = {label: entry["measured"]["measured_on"] for label, entry in found.items()}
    assert shares == {"exact": 1.0, "close": 1.0, "far": 0.25}
    quarter = [{"input_ids": cheap.ctx.batches.report[0]["input_ids"][:2]}]
    expected = joint_divergence(cheap.ctx.model, cheap.found.replacement([f"{SITE}/far"]), quarter).value
    assert found["far"]["measured"]["divergence"] == pytest.approx(expected, rel=1e-6)

    monkeypatch.setattr(baselines, "MILD", math.inf)  # nothing is hopeless: the full path
    full = Planted(activations, tmp_path / "full", monkeypatch, budget)()
    assert {entry["measured"]["measured_on"] for entry in full.values()} == {1.0}
    for label, entry in full.items():
        assert found[label]["meets_budget"] == entry["meets_budget"]
        assert found[label]["candidates"] == entry["candidates"]
        for cost in ("params", "bytes", "flops", "kv_bytes"):
            assert found[label]["measured"][cost] == entry["measured"][cost], (label, cost)
    ranked = [sorted(each, key=lambda label: each[label]["measured"]["divergence"]) for each in (found, full)]
    assert ranked[0] == ranked[1] == ["exact", "close", "far"]
    assert full["far"]["measured"]["divergence"] > baselines.HOPELESS * full["close"]["measured"]["divergence"]


def test_mixes_are_clocked_in_groups_that_memory_holds(activations, tmp_path, monkeypatch):
    planted = Planted(activations, tmp_path / "run", monkeypatch, {"latency": 0.8})
    built = planted.found.built
    (_, module), *_ = built.replacement(built.candidates[f"{SITE}/far"])
    one = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
    mixes = {str(i): [f"{SITE}/far"] for i in range(5)}
    for room, sizes in [(one, [1] * 5), (one + 1, [2, 2, 1]), (10**9, [5])]:
        assert [len(group) for group in clock.groups(built, mixes, room)] == sizes
    monkeypatch.setattr(clock, "TOGETHER", 3)
    assert [list(group) for group in clock.groups(built, mixes, 10**9)] == [["0", "1", "2"], ["3", "4"]]
    assert [list(group) for group in clock.groups(built, mixes, 10**9, 1)] == [["0"], ["1"], ["2"], ["3"], ["4"]]
    found = clock.clock_together(planted.ctx, built, mixes, 3)
    assert found.keys() == mixes.keys()
    timed = len(planted.clocked)
    assert clock.clock_together(planted.ctx, built, mixes, 3) == found
    assert len(planted.clocked) == timed, "it is read back"
    clock.clock_together(planted.ctx, built, mixes, 4)
    assert len(planted.clocked) > timed, "fewer rounds than are asked for now do not count"
    planted.workspace.close()
