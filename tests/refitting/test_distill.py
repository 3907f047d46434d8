"""Local distillation and the self-swap control: the same operator, fitted again, has to come back."""

import copy
from dataclasses import replace

import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.refitting import methods
from layersmith.refitting.build.distill import distill
from layersmith.refitting.calibrate.activations import Activations
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_batches, token_batches


def test_self_swap_of_a_copy_is_exact_and_stays_so(view):
    at = view("layers.1.ffn")
    replacement = at.as_replacement(copy.deepcopy(at.ffn.operator))
    assert at.local_error(replacement) < 1e-10
    assert distill(at, replacement, steps=5) == 0, "nothing is better than the original: the start is kept"
    assert at.local_error(replacement) < 1e-10


def test_self_swap_control_comes_back(llama, tmp_path):
    """The original operator with a third of its weights' scale in noise, distilled, returns to the original."""
    anatomy = find_sites(llama)
    workspace = Workspace(tmp_path / "run", {})
    many = replace(tiny_batches(), fit=token_batches(40, rows=4, length=48, seed=1))
    activations = Activations(Replay(llama, anatomy), anatomy, many, workspace)
    activations.calibrate()
    at = activations.view(anatomy.site("layers.1.ffn"))
    operator = copy.deepcopy(at.ffn.operator)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in operator.parameters():
            p += 0.3 * p.std() * torch.randn_like(p)
    replacement = at.as_replacement(operator)
    start = at.local_error(replacement)
    assert start > 0.1
    distill(at, replacement, steps=800, lr=5e-3)
    assert at.local_error(replacement) < 0.02 * start
    workspace.close()


def test_distillation_never_makes_it_worse(view):
    """An absurd learning rate wrecks the weights; the closed-form start wins and is put back."""
    at = view("layers.1.ffn")
    replacement = methods.get("width").build(at, {"keep": 0.5})
    start = at.local_error(replacement)
    assert distill(at, replacement, steps=6, lr=10.0) == 0
    assert at.local_error(replacement) == start


def test_distillation_improves_a_narrowed_feed_forward(view):
    at = view("layers.1.ffn")
    replacement = methods.get("width").build(at, {"keep": 0.5})
    start = at.local_error(replacement)
    assert distill(at, replacement, steps=60) > 0
    assert at.local_error(replacement) < start


def test_running_statistics_are_put_back_too(view):
    """A batch norm gathers statistics while it is distilled; they belong to the state that was best."""
    at = view("layers.1.ffn_norm")
    method = methods.get("prep_bn")
    replacement = method.build(at, method.options(at)[0])
    start = at.local_error(replacement)
    assert distill(at, replacement, steps=6, lr=10.0) == 0
    assert at.local_error(replacement) == start
