"""What holds for every task: shapes and ranges, one seed one stream, and yardsticks that are what they say."""

from __future__ import annotations

import math

import pytest
import torch

from layersmith.errors import UserError
from layersmith.papers import papers
from layersmith.racing.task import IGNORED, Task
from layersmith.racing.tasks import TASKS, build_task

from .small import DENSITIES, NAMES, draw, guesses, right, small


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    return {name: small(name, tmp_path_factory.mktemp(name)) for name in NAMES}


def test_the_table_is_sorted_and_names_what_is_there(tasks: dict[str, Task]) -> None:
    assert list(TASKS) == sorted(TASKS)
    for name, task in tasks.items():
        assert task.name == name
        assert TASKS[name] == f"{type(task).__module__}:{type(task).__name__}"
        assert task.summary.endswith(".")
        assert set(task.papers) <= papers().keys()


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_what_a_task_says_of_itself(name: str, tasks: dict[str, Task]) -> None:
    task = tasks[name]
    for split in task.splits:
        batch = draw(task, 6, split)
        inputs, targets = batch.inputs, batch.targets
        assert inputs.is_contiguous()
        assert targets.is_contiguous()
        length = inputs.shape[1]
        assert length == task.tokens if split != "longer" else length > task.tokens
        if task.reads == "tokens":
            assert (inputs.dtype, inputs.shape) == (torch.long, (6, length))
            assert inputs.min() >= 0
            assert inputs.max() < task.n_inputs
        else:
            assert (inputs.dtype, inputs.shape) == (torch.float32, (6, length, task.n_inputs))
            assert inputs.isfinite().all()
        if task.writes == "real":
            assert (targets.dtype, targets.shape) == (torch.float32, (6, length, task.n_outputs))
            assert (~targets.isnan()).flatten(1).any(1).all()
        else:
            assert targets.dtype == torch.long
            assert targets.shape == ((6, length) if task.writes == "tokens" else (6,))
            asked = targets[targets != IGNORED]
            assert asked.min() >= 0
            assert asked.max() < task.n_outputs
            assert (targets.reshape(6, -1) != IGNORED).any(1).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_is_one_stream(name: str, tasks: dict[str, Task]) -> None:
    task = tasks[name]
    before = torch.get_rng_state()
    one, two = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for split in task.splits:
        a, b = task.batch(one, 5, split), task.batch(two, 5, split)
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets.nan_to_num(9.0), b.targets.nan_to_num(9.0))
        assert not torch.equal(a.inputs, draw(task, 5, split, seed=4).inputs)
    assert torch.equal(torch.get_rng_state(), before), "a task draws from its generator only"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DENSITIES])
def test_who_is_right_gets_the_best_score_and_no_loss(name: str, tasks: dict[str, Task]) -> None:
    task = tasks[name]
    batch = draw(task, 8, "test")
    outputs = right(task, batch).requires_grad_()
    loss = task.loss(outputs, batch)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert task.score(outputs.detach(), batch) == pytest.approx(1.0 if task.higher_is_better else 0.0, abs=1e-6)
    loss = task.loss(guesses(task, batch).requires_grad_(), batch)
    assert loss.isfinite()
    loss.backward()


@pytest.mark.parametrize("name", NAMES)
def test_random_scores_what_guessing_scores(name: str, tasks: dict[str, Task]) -> None:
    task = tasks[name]
    said = task.yardsticks()["random"]
    batch = draw(task, 20_000 if task.metric == "share of whole answers" else 4096, "test", seed=5)
    found = task.score(guesses(task, batch), batch)
    asked = int((batch.targets != IGNORED).sum()) if task.writes != "real" else 0
    if task.metric == "share of whole answers":
        asked = len(batch.targets)
    # Four standard deviations of a share; for numbers, what 4096 examples leave open.
    tolerance = 4 * math.sqrt(said * (1 - said) / asked) if task.higher_is_better else 0.05 * said
    assert found == pytest.approx(said, abs=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_no_yardstick_beats_the_oracle_and_none_is_unknown(name: str, tasks: dict[str, Task]) -> None:
    task = tasks[name]
    found = task.yardsticks()
    assert all(math.isfinite(value) for value in found.values())
    # On the same examples each time; the last digit of a sum goes by where its numbers lie in memory.
    assert task.yardsticks() == pytest.approx(found, rel=1e-12)
    best = max(found.values()) if task.higher_is_better else min(found.values())
    if "oracle" in found:
        assert found["oracle"] == pytest.approx(best, rel=1e-3, abs=1e-6)
    else:
        assert name in ("language_modelling", "digits", "replaced")


BAD = [
    ("selective_copying", {"context": 4, "n_data": 8}, "context=4.*at least 8"),
    ("selective_copying", {"n_values": 1}, "n_values=1"),
    ("induction", {"tokens": 2}, "tokens=2.*at least 3"),
    ("language_modelling", {"data": "/no/such/text"}, "There is no text"),
    ("language_modelling", {"tokens": 0}, "tokens=0"),
    ("in_context_regression", {"sparsity": 9}, "sparsity=9.*from 0 to 8"),
    ("in_context_regression", {"noise": -1.0}, "noise=-1.0"),
    ("in_context_regression", {"n_points": 2.5}, "n_points=2.5.*whole number"),
    ("in_context_boolean", {"kind": "xor"}, "kind='xor'.*conjunction"),
    ("in_context_boolean", {"kind": "majority", "relevant": 2}, "odd number"),
    ("in_context_networks", {"n_hidden": 0}, "n_hidden=0"),
    ("in_context_series", {"persistence": 1.1}, "persistence=1.1.*from 0 to 1"),
    ("modular_addition", {"train_share": 0.0}, "no pairs to train on"),
    ("modular_addition", {"train_share": 1.0}, "no pairs to judge by"),
    ("linear_series", {"noise": -1.0}, "noise=-1.0"),
    ("parity", {"longest": 0}, "longest=0"),
    ("first", {"longest": True}, "longest=True"),
    ("first", {"stretch": 1}, "stretch=1.*at least 2"),
    ("facts", {"tail": -1.0}, "tail=-1.0"),
    ("addition", {"longest": 0}, "longest=0"),
    ("addition", {"reverse": "no"}, "reverse='no'.*True or False"),
    ("multiplication", {"longest": -1}, "longest=-1"),
    ("multiplication", {"reverse": 1}, "reverse=1.*True or False"),
    ("sorting", {"n_values": 1}, "n_values=1"),
    ("listops", {"depth": 5, "most_arguments": 10}, "lower one of them"),
    ("automata", {"group": "s4"}, "group='s4'.*a5, s5, z60"),
    ("connectivity", {"n_nodes": 4, "degree": 5}, "degree=5.*from 0 to 3"),
    ("facts", {"n_relations": 0}, "n_relations=0"),
    ("digits", {"data": "/no/such/folder"}, "There is no train-images.*give a folder"),
    ("pathfinder", {"side": 8, "n_curves": 3}, "n_curves of at most 2"),
    ("burgers", {"tokens": 48}, "power of two"),
    ("burgers", {"viscosity": 0.001}, "viscosity=0.001"),
    ("burgers", {"data": "/no/such.npz"}, "There is no file"),
    ("darcy", {"side": 100}, "side=100"),
    ("darcy", {"data": "darcy.pt"}, "is a pickle"),
    ("bandit", {"imitates": "itself"}, "imitates='itself'.*teacher, learner"),
    ("bandit", {"kept": 0.0}, "kept=0.0"),
    ("bandit", {"n_steps": 2}, "n_steps=2"),
    ("bursty", {"asks": "both"}, "asks='both'.*context, relabelled, weights"),
    ("bursty", {"n_classes": 8}, "n_classes=8.*at least 9"),
    ("cavity", {"side": 2}, "side=2"),
    ("cavity", {"unseen": 1}, "unseen=1.*True or False"),
    ("denoising", {"epsilon": 0.01}, "next to no pair"),
    ("denoising", {"drop": 1.5}, "drop=1.5.*from 0 to 1"),
    ("dynamics", {"system": "lorenz63"}, "system='lorenz63'.*lorenz96"),
    ("dynamics", {"system": "kuramoto_sivashinsky", "n_seen": 10}, "8, 16, 32 or 64"),
    ("generation", {"data": "drawn", "patch": 3}, "patch=3 does not divide"),
    ("generation", {"data": "drawn", "held": 10}, "held=10.*from 0 to 9"),
    ("generation", {"data": "drawn", "sampler": "plian"}, "no sampler 'plian'. Did you mean 'plain'"),
    ("generation", {"data": "drawn", "sampler": {"name": "plain", "stepz": 3}}, "does not take these settings"),
    ("generation", {"data": "drawn", "sampler": {"name": "affiner", "way": "all"}}, "way='all'.*everything"),
    ("generation", {"data": "drawn", "sampler": 3}, "no sampler None"),
    ("impedance", {"side": 4}, "side=4"),
    ("impedance", {"noise": -1.0}, "noise=-1.0"),
    ("imputation", {"hidden": 0.8, "stretch": 2.0}, "a stretch of at least 4"),
    ("imputation", {"tokens": 5000}, "too few for tokens=5000"),
    ("imputation", {"data": "/no/such.csv"}, "There is no file"),
    ("in_context_fourier", {"only": 7}, "only=7.*from 0 to 6"),
    ("in_context_fourier", {"noise": 0.0}, "noise=0.0"),
    ("in_context_modular", {"modulus": 12}, "no prime"),
    ("in_context_modular", {"n_trained": 121}, "n_trained=121"),
    ("in_context_modular", {"dealt": "squares"}, "dealt='squares'.*rectangles, scattered"),
    ("in_context_modular", {"train_share": 1.0}, "no inputs to judge by"),
    ("in_context_regression", {"tail": 0.01}, "next to no x but 0"),
    ("in_context_uncertainty", {"low": 2.0}, "high=1.0.*from 2 to 10"),
    ("in_context_uncertainty", {"shift": "tasks"}, "shift='tasks'.*none, covariates, noise"),
    ("in_context_posterior", {"noise": 0.0}, "noise=0.0"),
    ("linear_algebra", {"problem": "svd"}, "problem='svd'.*transpose"),
    ("linear_algebra", {"spectrum": "laplace"}, "is for eigenvalues"),
    ("markov", {"switch": 0.0}, "switch=0.0"),
    ("markov", {"order": 8, "tokens": 4}, "tokens=4.*from 8"),
    ("negative_binomial", {"n_counts": 1}, "n_counts=1"),
    ("replaced", {"data": "/no/such/text"}, "There is no text"),
    ("replaced", {"share": 0.0}, "share=0.0"),
    ("series", {"data": "/no/such.csv"}, "There is no file"),
    ("series", {"tokens": 9000}, "lower one of them"),
]


@pytest.mark.parametrize(("name", "settings", "says"), BAD)
def test_bad_settings_are_answered_with_what_to_do(name: str, settings: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_task(name, settings)


def test_every_task_refuses_something() -> None:
    assert {name for name, _, _ in BAD} == set(NAMES)
