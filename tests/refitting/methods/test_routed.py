"""Routed feed-forwards from trained ones: exact where everything is used, better than the floors, and refusals."""

from types import SimpleNamespace

import pytest
import torch

from layersmith.ffn.glu import GLU
from layersmith.refitting import methods
from layersmith.refitting.methods.replace.neuron_experts import neuron_groups
from layersmith.refitting.methods.replace.to_fff import best_split


def fitted_error(view, name, settings):
    """On the data it was fitted to."""
    at = view("layers.1.ffn")
    at.holdout = at.fit
    return at.local_error(methods.get(name).build(at, settings))


@pytest.mark.parametrize(("name", "settings"), [("topk_moe", {"k": 8}), ("switch_moe", {"n_experts": 1})])
def test_using_every_neuron_is_the_original(view, name, settings):
    at = view("layers.1.ffn")
    assert at.local_error(methods.get(name).build(at, settings)) < 1e-3


@pytest.mark.parametrize("name", ["topk_moe", "sigma_moe"])
def test_more_experts_are_better(view, name):
    errors = [fitted_error(view, name, {"k": k}) for k in (2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < fitted_error(view, "mean", {})


def test_groups_name_each_neuron_once_and_the_router_is_gentle(view):
    at = view("layers.1.ffn")
    groups, router = neuron_groups(at.ffn.operator, at.inputs, 8)
    assert torch.equal(groups.flatten().sort().values, torch.arange(64))
    assert (at.inputs @ router.T).std().item() == pytest.approx(0.01, rel=1e-4)


def test_planted_groups_are_found_and_routed_to():
    """Neurons that read one half of the input fire where it is large; an expert for each half, chosen rightly."""
    torch.manual_seed(0)
    glu = GLU(32, 64)
    with torch.no_grad():
        for weight in (glu.gate.weight, glu.up.weight):
            weight[:32, 16:] = 0
            weight[32:, :16] = 0
    x = torch.randn(400, 32)
    x[:200, :16], x[200:, 16:] = 3 * x[:200, :16].abs(), 3 * x[200:, 16:].abs()
    groups, router = neuron_groups(glu, x, 2)
    halves = [int((group < 32).sum()) for group in groups]
    assert max(halves) >= 26  # neurons that are never among the strongest go where there is room
    first = halves.index(max(halves))
    right = ((x @ router.T).argmax(1) == first) == (torch.arange(400) < 200)
    assert right.float().mean() > 0.9


@pytest.mark.parametrize("name", ["fff", "fff_leaves"])
def test_trees_beat_the_mean(view, name):
    method, at = methods.get(name), view("layers.1.ffn")
    for settings in method.options(at):
        assert fitted_error(view, name, settings) < fitted_error(view, "mean", {})


def test_leaves_with_all_neurons_beat_a_linear_map(view):
    linear = fitted_error(view, "linear", methods.get("linear").options(view("layers.1.ffn"))[0])
    assert fitted_error(view, "fff_leaves", {"depth": 1, "keep": 1.0}) < linear


def test_best_split_finds_the_planted_neuron():
    answers = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.sign(answers[:, 3:4] - answers[:, 3].median()) * torch.ones(1, 4)
    neuron, border = best_split(answers, targets)
    assert neuron == 3
    assert border == pytest.approx(answers[:, 3].median().item())
    assert best_split(answers[:1], targets[:1]) == (0, 0.0)


@pytest.mark.parametrize("name", ["topk_moe", "switch_moe", "sigma_moe"])
def test_biases_and_odd_widths_are_refused(name):
    def reason(dense):
        return methods.get(name).unsupported_reason(SimpleNamespace(ffn=dense and SimpleNamespace(operator=dense)))

    assert reason(None) == "it is not a plain or gated feed-forward"
    assert reason(GLU(8, 16, bias=True)) == "its feed-forward has biases"
    assert reason(GLU(8, 18)).startswith("its 18 neurons do not divide into")
    assert reason(GLU(8, 16)) is None
