"""Corrections of low rank: gradients, merging and rounding of one map, and the same as PEFT's LoRA."""

import copy

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from layersmith.linear.half_precision import HalfPrecision
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.quantized import QuantizedLinear
from layersmith.refitting.heal.adapters.corrected import Corrected, corrected
from tests.refitting.conftest import tiny_llama, token_batches


def plain(weight, bias):
    part = torch.nn.Linear(weight.shape[1], weight.shape[0])
    part.load_state_dict({"weight": weight, "bias": bias})
    return part


def transposed(weight, bias):
    part = Conv1D(weight.shape[0], weight.shape[1])
    part.load_state_dict({"weight": weight.T.contiguous(), "bias": bias})
    return part


MAPS = {
    "linear": plain,
    "conv1d": transposed,
    "int8": lambda w, b: Int8Dynamic.from_weight(w, b),
    "bf16": lambda w, b: HalfPrecision.from_weight(w, b),
    "4 bit": lambda w, b: QuantizedLinear.from_weight(w, 4, 8, b),
}


@pytest.fixture(params=MAPS)
def part(request):
    torch.manual_seed(0)
    return MAPS[request.param](torch.randn(6, 16), torch.randn(6))


def weight_of(part):
    if hasattr(part, "dense_weight"):
        return part.dense_weight()
    return part.weight.T if isinstance(part, Conv1D) else part.weight


def moved(part, shifts=True):
    """A correction that is not zero, of a copy of the part."""
    made = Corrected(copy.deepcopy(part).requires_grad_(False), 2, torch.Generator().manual_seed(3), shifts)
    with torch.no_grad():
        made.up.normal_(generator=torch.Generator().manual_seed(4))
        if shifts:
            made.shift.normal_(generator=torch.Generator().manual_seed(5))
    return made


def test_gradients_are_those_of_the_two_thin_matrices_beside_the_map(part):
    made, x = moved(part), torch.randn(2, 3, 16, requires_grad=True)
    direction = torch.randn(2, 3, 6)
    (made(x) * direction).sum().backward()
    down, up, shift, free = (t.detach().double().requires_grad_() for t in (made.down, made.up, made.shift, x))
    held = weight_of(made.part).detach().double()
    ((free @ held.T) * direction).sum().backward()  # what runs is the merged and rounded map
    torch.testing.assert_close(x.grad.double(), free.grad, rtol=1e-4, atol=1e-4)
    beside = (free.detach() @ down.T + shift) @ up.T
    (beside * direction).sum().backward()
    for ours, theirs in ((made.down, down), (made.up, up), (made.shift, shift)):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)
    assert all(p.grad is None for p in made.part.parameters())


def test_the_map_holds_the_sum_as_its_format_has_it(part):
    made, x = moved(part), torch.randn(5, 16)
    whole = weight_of(part).float() + made.up @ made.down
    want = copy.deepcopy(part)
    with torch.no_grad():
        y = made(x)
        if isinstance(part, QuantizedLinear):
            size, zero = (t.float().repeat_interleave(part.group_size, -1) for t in (part.scale, part.zero))
            on_grid = torch.minimum(torch.maximum(whole, -zero * size), (15 - zero) * size)
            assert ((weight_of(made.part) - on_grid).abs() <= 0.51 * size).all()
            assert not torch.equal(weight_of(made.part), weight_of(part))
        else:
            fresh = type(part).from_weight(whole, part.bias) if hasattr(part, "from_weight") else want
            if fresh is want:
                want.weight.copy_(whole.T if isinstance(part, Conv1D) else whole)
            torch.testing.assert_close(weight_of(made.part), weight_of(fresh), rtol=0, atol=1e-6)
        torch.testing.assert_close(made.part.bias, part.bias + made.up @ made.shift)
        torch.testing.assert_close(y, made.part(x))


def test_a_correction_of_zero_leaves_the_map_bit_by_bit(part):
    made, x = Corrected(copy.deepcopy(part), 2, torch.Generator().manual_seed(3)), torch.randn(5, 16)
    with torch.no_grad():
        made.down.mul_(2)  # written to, and still nothing
        assert torch.equal(made(x), part(x))
    assert all(torch.equal(v, part.state_dict()[k]) for k, v in made.part.state_dict().items())


def test_back_at_an_earlier_state_it_computes_what_it_computed_then(part):
    made, x = moved(part), torch.randn(5, 16)
    with torch.no_grad():
        y = made(x)
        state = {k: v.clone() for k, v in made.state_dict().items()}
        assert not any(k.startswith("base") for k in state), "the weight it began with is not stored anew"
        made.up.mul_(3)
        assert not torch.equal(made(x), y)
        made.load_state_dict(state)
        assert torch.equal(made(x), y)


def test_nothing_else_is_trained_and_all_is_as_it_was_afterwards():
    model = tiny_llama(layers=1).requires_grad_(True)
    model.lm_head.weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    path = "model.layers.0.mlp.down_proj"
    with corrected(model, [path], 4, seed=0):
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        assert names == [f"{path}.down", f"{path}.up"]
        assert model.get_submodule(path).in_features == 64, "its width can be read off it"
        assert model.get_submodule(path).weight is model.get_submodule(path).part.weight
    assert type(model.get_submodule(path)) is torch.nn.Linear
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    with pytest.raises(RuntimeError), corrected(model, [path], 4, seed=0):
        raise RuntimeError
    assert type(model.get_submodule(path)) is torch.nn.Linear


def test_the_same_as_lora_of_peft():
    """Logits, and the gradients of both factors at every map, for equal factors."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed (pip install '.[dev]')")
    model, (batch,) = tiny_llama(layers=2), token_batches(1)
    paths = [name for name, m in model.named_modules() if type(m) is torch.nn.Linear and name != "lm_head"]
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules="all-linear")
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    factors = dict(theirs.base_model.model.named_parameters())
    with torch.no_grad():
        for name, factor in factors.items():
            if "lora_B" in name:
                factor.normal_(std=0.05)
    with corrected(model, paths, 3, seed=0):
        for path in paths:
            ours = model.get_submodule(path)
            with torch.no_grad():
                ours.down.copy_(factors[f"{path}.lora_A.default.weight"])
                ours.up.copy_(factors[f"{path}.lora_B.default.weight"])
        found, expected = model(**batch).logits, theirs(**batch).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for logits in (found, expected):
            logits.float().log_softmax(-1).square().mean().backward()
        for path in paths:
            ours = model.get_submodule(path)
            for factor, name in ((ours.down, "lora_A"), (ours.up, "lora_B")):
                want = factors[f"{path}.{name}.default.weight"].grad
                torch.testing.assert_close(factor.grad, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
