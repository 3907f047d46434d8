"""When one method everywhere is chosen before the searched mix."""

from types import SimpleNamespace

import pytest

from layersmith.errors import UserError
from layersmith.refitting.search import adopted
from layersmith.refitting.search.adopted import or_baseline
from layersmith.refitting.search.select import Selection
from layersmith.runs.workspace import Workspace

SEARCHED = Selection(
    chosen=["a", "b"],
    predicted_divergence=0.1,
    joint_divergence=0.2,
    latency_ratio=0.7,
    meets_budget=True,
    effective_budget={"latency": 0.68},
    refinement=[{"to": "b"}],
)
BROKEN = "broken"


def baseline(label, meets=True, measured_on=1.0, ratio=0.69):
    measured = {"measured_on": measured_on, "latency_ratio": ratio, "divergence": 0.0}
    predicted = {"divergence": None}
    return {
        "label": label,
        "candidates": [label],
        "meets_budget": meets,
        "measured": measured,
        "predicted": predicted,
    }


class Run:
    """A run in which mixes are as far from the original as `joint` says."""

    def __init__(self, folder, monkeypatch, joint):
        self.asked, self.notes, self.joint, self.answered = [], [], joint, 0
        self.ctx = SimpleNamespace(
            model=None,
            settings=SimpleNamespace(budget={"latency": 0.71}),
            workspace=Workspace(folder, {}),
            batches=SimpleNamespace(search=[]),
            bar=SimpleNamespace(note=self.notes.append),
        )
        monkeypatch.setattr(adopted, "joint_divergence", self.measured)
        monkeypatch.setattr(adopted, "outputs", self.answers)

    def answers(self, model, batches):
        self.answered += 1
        return ["an answer"]

    def measured(self, model, replacement, batches, expected):
        assert expected == ["an answer"]
        (label,) = replacement
        self.asked.append(label)
        if self.joint[label] == BROKEN:
            raise UserError("not finite")
        return SimpleNamespace(value=self.joint[label])

    def __call__(self, uniform, searched=SEARCHED):
        return or_baseline(self.ctx, SimpleNamespace(selection=searched, replacement=lambda ids: ids), uniform)


@pytest.fixture
def run(tmp_path, monkeypatch):
    def made(**joint):
        return Run(tmp_path / "run", monkeypatch, joint)

    return made


def test_the_closest_baseline_is_chosen_where_it_is_closer_than_the_mix(run):
    asks = run(near=0.19, nearer=0.05, far=0.3, broken=BROKEN)
    chosen = asks([baseline(label) for label in asks.joint])
    assert (chosen.chosen, chosen.baseline, chosen.joint_divergence) == (["nearer"], "nearer", 0.05)
    assert (chosen.latency_ratio, chosen.predicted_divergence, chosen.refinement) == (0.69, None, [])
    assert chosen.meets_budget
    assert chosen.effective_budget == SEARCHED.effective_budget
    assert len(asks.notes) == 1
    assert asks.answered == 1, "the original is run once for all of them"
    measured = list(asks.asked)
    asks([baseline(label) for label in ("near", "nearer", "far")])
    assert asks.asked == measured, "what was measured is kept"


def test_the_mix_stays_where_no_baseline_is_closer(run):
    asks = run(same=0.2, far=0.3, broken=BROKEN)
    assert asks([baseline(label) for label in asks.joint]) is SEARCHED
    assert asks([]) is SEARCHED
    assert not asks.notes


def test_what_misses_the_budget_or_was_only_looked_at_is_not_chosen(run):
    """Nor what meets it by less than a mix has to, so that the last measurement still does."""
    asks = run(slow=0.0, glanced=0.0, just=0.0)
    refused = [baseline("slow", meets=False), baseline("glanced", measured_on=0.25), baseline("just", ratio=0.705)]
    assert asks(refused) is SEARCHED
    assert not asks.asked
