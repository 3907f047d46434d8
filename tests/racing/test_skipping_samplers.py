"""Samplers that skip layers: whole where nothing is skipped, right on planted lines, by the token elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.racing.samplers import build_sampler
from layersmith.racing.samplers.extrapolation_refresh import ExtrapolationRefresh, grouped
from layersmith.racing.samplers.sampler import Sampler
from layersmith.racing.samplers.skipping import is_computed, share_computed
from layersmith.racing.samplers.stage_predictor import Recorder, StagePredictor, body
from layersmith.racing.tasks.generation import Generation

from .drawn import CLASSES, TASK, model, noise


def drawn(sampler: Sampler, subject: nn.Module, seed: int = 5) -> Tensor:
    with torch.no_grad():
        return sampler.draw(sampler.learn(subject, TASK), TASK, noise(seed=seed), CLASSES)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "extrapolation_refresh", "interval": 1},
        {"name": "extrapolation_refresh", "interval": 4, "shallow": 3, "refreshed": 4},
        {"name": "stage_predictor", "interval": 1},
        {"name": "stage_predictor", "interval": 1, "rule": "reuse"},
    ],
    ids=str,
)
def test_nothing_skipped_is_the_plain_sampler(settings: dict, guidance: float) -> None:
    subject = model()
    found = drawn(build_sampler({**settings, "steps": 6, "guidance": guidance}), subject)
    assert found.equal(drawn(Sampler(6, guidance), subject))


def test_which_steps_are_computed() -> None:
    assert [step for step in range(11) if is_computed(step, 4)] == [0, 1, 4, 8]
    assert share_computed(11, 4) == 4 / 11


class Ramp(nn.Module):
    """A layer that adds as many times the same as there were steps."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.way = 0, torch.randn(16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def forward(self, x: Tensor, state: None, mask: None) -> tuple[Tensor, None]:
        return x + (3 + self.now) * self.way, None


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({"name": "extrapolation_refresh", "shallow": 0}, True),
        ({"name": "extrapolation_refresh", "shallow": 0, "extrapolate": False}, False),
        ({"name": "stage_predictor", "rule": "taylor"}, True),
        ({"name": "stage_predictor", "rule": "learned"}, True),
        ({"name": "stage_predictor", "rule": "reuse"}, False),
    ],
    ids=str,
)
def test_what_goes_along_a_line_is_foretold_exactly(settings: dict, exact: bool) -> None:
    """The model reads the same at each step and its last layer is a ramp: only how far it has come changes."""
    subject, ramp, steps = model(), Ramp(), 9
    subject.layers[2] = ramp
    sampler = build_sampler({**settings, "steps": steps, "interval": 3})
    if isinstance(sampler, ExtrapolationRefresh):
        sampler.learn(subject, TASK)
    else:
        sampler.scale_by([torch.randn(4, 16, 16, dtype=torch.float64) for _ in range(3)])  # nothing learned yet
    inputs = TASK.inputs(noise(), 0.5, CLASSES)
    wrong = []
    for step in range(steps):
        ramp.now = step
        wrong.append(float((sampler.run(subject, inputs, step) - subject(inputs)).abs().max()))
    skipped = [error for step, error in enumerate(wrong) if not is_computed(step, 3)]
    assert max(e for step, e in enumerate(wrong) if is_computed(step, 3)) < 1e-12
    assert max(skipped) < 1e-10 if exact else min(skipped) > 1e-4


def test_refreshed_patches_are_computed_one_by_one_and_the_others_stay() -> None:
    """One shallow layer against loops over patches, whose queries see old keys and values of the others."""
    subject, steps, interval = model(n_layers=2), 7, 3
    sampler = ExtrapolationRefresh(steps, interval=interval, shallow=1, refreshed=1)
    sampler.learn(subject, TASK)
    layer, deep = subject.layers
    keys = values = out = None
    counts, history = [0] * 16, []
    for step in range(steps):
        inputs = TASK.inputs(noise(seed=step)[:1], step / steps, CLASSES[:1])
        x = subject.embed(inputs)
        if is_computed(step, interval):
            rows = list(range(16))
        else:
            blocks = [[r * 4 + c for r in (i, i + 1) for c in (j, j + 1)] for i in (0, 2) for j in (0, 2)]
            rows = [min(block, key=lambda patch: (counts[patch], patch)) for block in blocks]
        h = layer.norm(x[0])
        if keys is None:
            keys, values, out = torch.zeros(16, 16).double(), torch.zeros(16, 16).double(), torch.zeros(16, 16).double()
        for row in rows:
            counts[row] += 1
            keys[row], values[row] = layer.mixer.k(h[row]), layer.mixer.v(h[row])
        for row in rows:
            q, heads = layer.mixer.q(h[row]), []
            for head in (slice(0, 8), slice(8, 16)):
                weights = np.exp([float(q[head] @ keys[s][head]) / 8**0.5 for s in range(16)])
                heads.append(sum(w * values[s][head] for s, w in enumerate(weights / weights.sum())))
            y = x[0, row] + layer.mixer.o(torch.cat(heads))
            out[row] = y + layer.ffn(layer.ffn_norm(y[None]))[0]
        if is_computed(step, interval):
            after = deep(out[None], None, None)[0][0]
            history = [*history[-1:], (step, after - out)]
        else:
            (s0, d0), (s1, d1) = history
            after = out + d1 + (step - s1) * (d1 - d0) / (s1 - s0)
        want = subject.head(subject.final_norm(after))
        torch.testing.assert_close(sampler.run(subject, inputs, step)[0], want, rtol=1e-9, atol=1e-11)
    assert max(counts) - min(counts) <= 1


def test_every_patch_of_a_square_gets_its_turn() -> None:
    groups = grouped(4, 6)
    assert groups[0].tolist() == [0, 1, 6, 7]
    assert sorted(groups.flatten().tolist()) == list(range(24))


@pytest.mark.parametrize(("shallow", "refreshed"), [(0, 1), (1, 0), (1, 1), (2, 3), (3, 2)])
def test_the_share_of_the_work_is_what_runs(shallow: int, refreshed: int) -> None:
    subject, rows = model(), []
    for layer in subject.layers:
        layer.ffn.down.register_forward_hook(lambda m, given, out: rows.append(given[0].numel() // given[0].shape[-1]))
    sampler = ExtrapolationRefresh(8, interval=3, shallow=shallow, refreshed=refreshed)
    drawn(sampler, subject)
    assert sum(rows) / (8 * 3 * 6 * 16) == pytest.approx(sampler.share(3))


def test_models_it_cannot_draw_with_are_refused() -> None:
    rotated, sampler = model(rope_theta=10000.0), build_sampler("extrapolation_refresh")
    with pytest.raises(UserError, match="rope_theta: null"):
        sampler.check(rotated, TASK)
    build_sampler({"name": "extrapolation_refresh", "shallow": 0}).check(rotated, TASK)
    with pytest.raises(UserError, match="shallow=9"):
        build_sampler({"name": "extrapolation_refresh", "shallow": 9}).check(model(), TASK)
    with pytest.raises(UserError, match="without loops"):
        build_sampler("stage_predictor").check(model(loops=2), TASK)
    with pytest.raises(UserError, match="2 x 2"):
        sampler.check(model(), Generation(data="drawn", patch=8))


def test_layers_of_which_single_patches_cannot_be_computed_are_refused() -> None:
    """They ran, and what was drawn was not the model's."""
    scaled, causal = model(), model(mixer={"name": "softmax_attention", "causal": True})
    scaled.layers[0].mixer_factors = (1.0, 0.5)
    for subject in (scaled, causal, model(mixer="shaped_attention")):
        with pytest.raises(UserError, match="single patches"):
            build_sampler("extrapolation_refresh").check(subject, TASK)


def predictor(**settings: object) -> StagePredictor:
    found = build_sampler({"name": "stage_predictor", "steps": 9, "interval": 3, "examples": 16, **settings})
    assert isinstance(found, StagePredictor)
    return found


def test_hats_are_one_in_sum_and_linear_between() -> None:
    sampler = predictor(knots=7)
    sampler.middle, sampler.spread = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double()
    x = 6 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hats = sampler.hats(x).reshape(50, 2, 7)
    torch.testing.assert_close(hats.sum(-1), torch.ones(50, 2).double())
    u = ((x - sampler.middle) / sampler.spread).clamp(-2, 2)
    torch.testing.assert_close(hats @ torch.linspace(-2, 2, 7).double(), u)


def test_predictors_are_the_ridge_regression_on_both_phases() -> None:
    """Taken down by hand: first from true features, then from drawing with what was learned of these."""
    subject, sampler = model(), predictor(stages=2, penalty=0.1)
    taken: list[tuple[tuple[int, int], Tensor, Tensor]] = []
    remember = sampler.take_down

    def listen(place: tuple[int, int], hats: Tensor, left: Tensor) -> None:
        taken.append((place, hats, left))
        remember(place, hats, left)

    sampler.take_down = listen  # type: ignore[method-assign]
    sampler.learn(subject, TASK)
    skipped = [step for step in range(9) if not is_computed(step, 3)]
    places = [(2 * step // 9, step % 3 if step > 2 else step - 1) for step in skipped]
    assert [place for place, _, _ in taken] == places * 2
    assert not taken[1][1].equal(taken[1 + len(skipped)][1]), "the second phase is from its own drawings"
    for place, weights in sampler.weights.items():
        hats = torch.cat([h.flatten(0, -2) for where, h, _ in taken if where == place])
        left = torch.cat([y.flatten(0, -2) for where, _, y in taken if where == place])
        assert len(hats) == 2 * places.count(place) * 16 * 16
        damping = 0.1 * hats.square().sum(0).mean()
        up = torch.cat([hats, damping.sqrt() * torch.eye(hats.shape[1]).double()])
        down = torch.cat([left, torch.zeros(hats.shape[1], left.shape[1]).double()])
        torch.testing.assert_close(weights, torch.linalg.lstsq(up, down).solution, rtol=1e-6, atol=1e-8)
    assert sampler.truth is None


def test_what_is_learned_foretells_better_than_a_line_and_than_what_was() -> None:
    """On noise that nothing was learned from: the features of skipped steps, from true ones before them."""
    subject = model()
    whole = Recorder(9)
    with torch.no_grad():
        whole.draw(subject, TASK, noise(seed=99), CLASSES)
    errors = {}
    for rule in ("learned", "taylor", "reuse"):
        sampler = predictor(rule=rule, examples=64)
        sampler.learn(subject, TASK)
        history, found = [], []
        for step, features in enumerate(whole.features):
            if is_computed(step, 3):
                history = [*history[-1:], (step, features)]
            else:
                found.append((sampler.forecast(history, step) - features).square().mean())
        errors[rule] = float(torch.stack(found).mean())
    assert errors["learned"] < 0.8 * min(errors["taylor"], errors["reuse"])


def test_features_are_those_before_the_output_map() -> None:
    subject, inputs = model(), TASK.inputs(noise(), 0.2, CLASSES)
    assert subject.head(subject.final_norm(body(subject, inputs))).equal(subject(inputs))
