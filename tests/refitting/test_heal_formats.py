"""Healing a model with matrices in number formats: they are trained through their rounding, and are what they were."""

import copy

import pytest
import torch

from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import Edit, apply
from layersmith.linear.half_precision import HalfPrecision
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.quantized import QuantizedLinear
from layersmith.measuring.divergence import divergence
from layersmith.refitting.heal.distillation import HealSettings, heal
from layersmith.refitting.heal.formats import Trained, trainable_formats
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama, token_batches

BATCHES, HELDOUT = token_batches(8, seed=5), token_batches(3, seed=6)
FORMATS = {
    "int8": lambda w, b: Int8Dynamic.from_weight(w, b),
    "bf16": lambda w, b: HalfPrecision.from_weight(w, b),
    "4 bit": lambda w, b: QuantizedLinear.from_weight(w, 4, 8, b),
}


@pytest.fixture(params=FORMATS)
def part(request):
    torch.manual_seed(0)
    return FORMATS[request.param](torch.randn(6, 16), torch.randn(6))


def test_gradients_are_those_of_the_map_without_rounding(part):
    torch.manual_seed(1)
    trained, x = Trained(copy.deepcopy(part)), torch.randn(2, 3, 16, requires_grad=True)
    direction = torch.randn(2, 3, 6)
    y = trained(x)
    assert torch.equal(y.detach(), part(x.detach())), "what runs is the rounded map"
    (y * direction).sum().backward()
    weight, bias, free = (t.detach().double().requires_grad_() for t in (part.dense_weight(), part.bias, x))
    (torch.nn.functional.linear(free, weight, bias) * direction).sum().backward()
    for found, expected in ((x, free), (trained.weight, weight), (trained.part.bias, bias)):
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-5, atol=1e-5)


def test_it_is_rounded_anew_when_its_weight_has_changed_and_only_then(part):
    trained, x = Trained(copy.deepcopy(part)), torch.randn(5, 16)
    with torch.no_grad():
        trained(x)
        before = {k: v.clone() for k, v in trained.part.state_dict().items()}
        assert all(torch.equal(v, part.state_dict()[k]) for k, v in before.items())
        step = 0.3 * trained.weight.abs().max()
        trained.weight[0] += step * torch.linspace(-1, 1, 16)
        found = trained(x)
        again = copy.deepcopy(trained)
        again.weight.zero_()
    now = trained.part.dense_weight()
    assert not torch.equal(now[0], part.dense_weight()[0])
    torch.testing.assert_close(now[1:], part.dense_weight()[1:], rtol=1e-6, atol=0)
    with torch.no_grad():
        assert torch.equal(found, trained.part(x))
        again(x)
        assert not again.part.dense_weight().any(), "a copy is rounded by itself"


@pytest.fixture
def teacher():
    return tiny_llama(layers=2)


@pytest.fixture(params=["int8", "bf16"])
def rounded(request, teacher):
    """The teacher with noise on one matrix, which is in a number format."""
    changed, path = copy.deepcopy(teacher), "model.layers.0.mlp.down_proj"
    torch.manual_seed(1)
    noisy = changed.get_submodule(path).weight + 0.1 * torch.randn(32, 64)
    part = FORMATS[request.param](noisy, None)
    apply(changed, [(Edit(path, part.spec(), {}), part)])
    return changed.requires_grad_(True)


def healed(changed, teacher, steps=24, workspace=None, **settings):
    options = HealSettings(steps, **{"lr": 2e-3, "check_every": 4, "patience": 99, **settings})
    return heal(changed, teacher, find_sites(teacher), BATCHES, HELDOUT, options, workspace=workspace)


def kinds(model):
    return [type(m) for m in model.modules()]


def stored(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_codes_are_trained_and_what_was_measured_is_what_is_left(rounded, teacher):
    before, modules = stored(rounded), kinds(rounded)
    apart = divergence(teacher, rounded, HELDOUT).value
    healing = healed(rounded, teacher, steps=60)
    assert kinds(rounded) == modules
    after = stored(rounded)
    assert after.keys() == before.keys()
    changed = [k for k in after if not after[k].is_floating_point() and not torch.equal(after[k], before[k])]
    assert {k.rpartition(".")[2] for k in changed} & {"codes", "weight_bits"}
    assert not healing.rolled_back
    found = divergence(teacher, rounded, HELDOUT).value
    assert found < 0.8 * apart
    assert found == pytest.approx(min(point["heldout_divergence"] for point in healing.curve))


def test_rolled_back_every_code_is_as_it_was(rounded, teacher):
    before = stored(rounded)
    healing = healed(rounded, teacher, steps=8, lr=3.0)
    assert healing.rolled_back
    assert all(torch.equal(v, before[k]) for k, v in stored(rounded).items())


def test_codes_that_a_method_chose_are_kept_until_they_are_trained(llama):
    """Rounded to nearest they would be others: the largest of a row is not on the end of its grid."""
    part = Int8Dynamic.from_weight(torch.eye(32))
    part.codes.clamp_(max=64)
    changed = copy.deepcopy(llama)
    apply(changed, [(Edit("model.layers.0.self_attn.q_proj", part.spec(), {}), part)])
    (batch,) = token_batches(1)
    with torch.no_grad():
        expected = changed(**batch).logits
        with trainable_formats(changed):
            assert torch.equal(changed(**batch).logits, expected)
    assert part.codes.max() == 64


def test_killed_it_goes_on_to_the_same_end(rounded, teacher, tmp_path):
    other = copy.deepcopy(rounded)
    whole = healed(rounded, teacher, steps=12)
    workspace = Workspace(tmp_path / "run", {})

    def die(text, done, total):
        if done == 7:
            raise KeyboardInterrupt

    start = copy.deepcopy(other)
    options = HealSettings(12, lr=2e-3, check_every=4, patience=99)
    with pytest.raises(KeyboardInterrupt):
        heal(other, teacher, find_sites(teacher), BATCHES, HELDOUT, options, workspace=workspace, tell=die)
    assert kinds(other) == kinds(rounded), "also after an interruption there is nothing left of healing"
    resumed = healed(start, teacher, steps=12, workspace=workspace)
    assert resumed.curve == whole.curve
    assert all(torch.equal(v, stored(start)[k]) for k, v in stored(rounded).items())
    workspace.close()


def test_a_student_in_half_precision_heals_too(rounded, teacher):
    teacher, changed = teacher.to(torch.bfloat16), rounded.to(torch.bfloat16)
    apart = divergence(teacher, changed, HELDOUT).value
    healing = healed(changed, teacher, steps=40)
    assert not healing.rolled_back
    assert divergence(teacher, changed, HELDOUT).value < 0.95 * apart
    assert not any(isinstance(m, Trained) for m in changed.modules())
