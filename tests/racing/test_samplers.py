"""Samplers: plain steps and guidance by hand, tangential damping, the base's prior, Affiners."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.racing.samplers import SAMPLERS, build_sampler
from layersmith.racing.samplers.affiner import Affined, added, affined
from layersmith.racing.samplers.sampler import Sampler
from layersmith.racing.samplers.tangential_damping import damped
from layersmith.racing.tasks.generation import WAVES, Generation

from .drawn import CLASSES, TASK, model, noise

TOLD = slice(5 + WAVES, 15 + WAVES)


class Known(nn.Module):
    """v = rate z + 3 where a class is told."""

    def forward(self, inputs: Tensor) -> Tensor:
        return -0.5 * inputs[..., :4] + 3 * inputs[..., TOLD].any(-1, keepdim=True)


def test_the_table_names_what_is_there() -> None:
    assert list(SAMPLERS) == sorted(SAMPLERS)
    for name, target in SAMPLERS.items():
        sampler = build_sampler(name)
        assert f"{type(sampler).__module__}:{type(sampler).__name__}" == target


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_steps_are_eulers_and_guidance_goes_beyond_the_class(guidance: float) -> None:
    steps, want = 5, noise(2).clone()
    for _ in range(steps):
        none = -0.5 * want
        want = want + (none + guidance * 3) / steps
    found = Sampler(steps, guidance).draw(Known(), TASK, noise(2), CLASSES[:2])
    torch.testing.assert_close(found, want)


def test_the_model_is_told_the_time_of_a_step_and_the_class() -> None:
    seen = []

    class Listening(Known):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append((inputs[:, 0, 4].tolist(), inputs[:, 0, TOLD].argmax(-1).tolist()))
            return super().forward(inputs)

    Sampler(4, 1.0).draw(Listening(), TASK, noise(3), torch.tensor([7, 0, 9]))
    assert seen == [([t] * 3, [7, 0, 9]) for t in (0.0, 0.25, 0.5, 0.75)]


def test_damping_is_the_projection_on_the_first_singular_vector() -> None:
    random = torch.Generator().manual_seed(0)
    none, named = torch.randn(2, 40, 16, 4, generator=random, dtype=torch.float64)
    named[:20] = none[:20] + 0.1 * named[:20]
    named[0], none[1] = 0.0, 0.0
    found = damped(none, named)
    for u, c, got in zip(none.flatten(1), named.flatten(1), found.flatten(1), strict=True):
        first = torch.linalg.svd(torch.stack([u, c]), full_matrices=False).Vh[0]
        torch.testing.assert_close(got, (u @ first) * first, rtol=1e-9, atol=1e-11)


def test_what_damping_leaves_and_what_it_takes_away() -> None:
    u = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(damped(u, 2.5 * u), u)  # parallel: all of it
    across = torch.tensor([[[0.0, 2.0]]], dtype=torch.float64)
    torch.testing.assert_close(damped(u, across), torch.zeros_like(u))  # at right angles, and weaker: none of it
    torch.testing.assert_close(damped(u, across / 4), u)  # and stronger: all of it


def test_damping_does_nothing_without_guidance_and_something_with_it() -> None:
    subject = model()
    plain, other = (
        [build_sampler({"name": name, "steps": 4, "guidance": g}) for g in (1.0, 3.0)]
        for name in ("plain", "tangential_damping")
    )
    drawn = [s.draw(subject, TASK, noise(), CLASSES) for s in (*plain, *other)]
    assert drawn[0].equal(drawn[2])
    assert (drawn[1] - drawn[3]).abs().max() > 1e-4


def test_the_base_stands_where_nothing_is_told() -> None:
    base, z = model().float(), noise().float()
    before = copy.deepcopy(base.state_dict())
    sampler = build_sampler({"name": "base_prior", "steps": 1, "guidance": 3.0, "tune_steps": 4})
    tuned = sampler.learn(base, TASK)
    assert all(before[name].equal(value) for name, value in base.state_dict().items())
    none, own = base(TASK.inputs(z, 0.0, None)), tuned(TASK.inputs(z, 0.0, None))
    named = tuned(TASK.inputs(z, 0.0, CLASSES))
    torch.testing.assert_close(sampler.draw(tuned, TASK, z, CLASSES), z + none + 3 * (named - none))
    usual = build_sampler({"name": "base_prior", "steps": 1, "guidance": 3.0, "tune_steps": 4, "prior": "own"})
    tuned = usual.learn(base, TASK)
    torch.testing.assert_close(usual.draw(tuned, TASK, z, CLASSES), z + own + 3 * (named - own))
    assert (none - own).abs().max() > 1e-4


@pytest.mark.parametrize("prior", ["base", "own"])
def test_one_model_in_both_places_is_usual_guidance(prior: str) -> None:
    subject = model()
    sampler = build_sampler({"name": "base_prior", "steps": 3, "guidance": 2.0, "tune_steps": 0, "prior": prior})
    found = sampler.draw(sampler.learn(subject, TASK), TASK, noise(), CLASSES)
    torch.testing.assert_close(found, Sampler(3, 2.0).draw(subject, TASK, noise(), CLASSES), rtol=1e-12, atol=1e-12)


def test_a_part_that_reads_the_weight_of_a_map_is_refused_before_it_is_trained() -> None:
    reading = model(ffn={"name": "swap_test", "d_hidden": 24})
    with pytest.raises(UserError, match="reads the weight of one"):
        build_sampler("affiner").check(reading, TASK)
    build_sampler({"name": "affiner", "way": "everything"}).check(reading, TASK)
    build_sampler("affiner").check(model(), TASK)


def test_an_affiner_is_what_its_formula_says() -> None:
    random = np.random.default_rng(0)
    part = Affined(nn.Linear(5, 3).double(), 2)
    values = {name: random.normal(size=p.shape) for name, p in part.named_parameters()}
    part.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    x = random.normal(size=5)
    want = np.zeros(3)
    for row in range(3):
        plain = values["linear.weight"][row] @ x + values["linear.bias"][row]
        branch = sum(values["up"][row, r] * max(0.0, values["down"][r] @ x) for r in range(2))
        want[row] = (1 + values["a"][row]) * plain + values["c"][row] + values["s"] * branch
    np.testing.assert_allclose(part(torch.tensor(x)).detach().numpy(), want, rtol=1e-12)


def test_affiners_change_nothing_at_first_and_only_they_are_trained() -> None:
    subject = model()
    inputs = TASK.inputs(noise(), 0.3, None)
    fresh = affined(subject, 2)
    assert fresh(inputs).equal(subject(inputs))
    assert sum(isinstance(m, Affined) for m in fresh.modules()) == sum(
        isinstance(m, nn.Linear) for m in subject.modules()
    )
    task = Generation(data="drawn", held=5, sampler="affiner")
    sampler = build_sampler({"name": "affiner", "steps": 2, "tune_steps": 30})
    tuned = sampler.learn(subject.float(), task)
    kept = {name.replace(".linear", ""): p for name, p in tuned.named_parameters() if ".linear" in name}
    assert all(p.equal(kept[name]) for name, p in subject.named_parameters() if name in kept)
    start = added(affined(subject, 2))
    assert all((now != then).any() for now, then in zip(added(tuned), start, strict=True) if now.numel())
    batch = task.noisy(torch.Generator().manual_seed(1), 200, task.asked("valid"), 1.0)
    assert task.loss(tuned(batch.inputs), batch) < 0.95 * task.loss(subject(batch.inputs), batch)


def test_what_an_affiner_is_held_against() -> None:
    task, subject = Generation(data="drawn", held=5, sampler="affiner"), model().float()
    assert build_sampler({"name": "affiner", "way": "nothing"}).learn(subject, task) is subject
    everything = build_sampler({"name": "affiner", "way": "everything", "tune_steps": 5}).learn(subject, task)
    changed = [(a != b).any() for a, b in zip(everything.parameters(), subject.parameters(), strict=True)]
    assert all(changed)
    told = Sampler(2).draw(Known(), task, noise(2), CLASSES[:2])
    untold = build_sampler({"name": "affiner", "steps": 2}).draw(Known(), task, noise(2), CLASSES[:2])
    assert (told - untold).min() > 1, "nothing is told of classes"
