"""LayerNorm, RMSNorm and DyT against loops, and against the norms of transformers' models."""

import math

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from layersmith.norm.dyt import DyT
from layersmith.norm.layer_norm import LayerNorm
from layersmith.norm.rms_norm import RMSNorm

D = 7


@pytest.fixture
def x() -> torch.Tensor:
    return 3 + 2 * torch.randn(2, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def randomised(part: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    return part.double()


def rows(tensor: torch.Tensor) -> list[list[float]]:
    return tensor.reshape(-1, D).tolist()


@pytest.mark.oracle("layer_norm")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_layer_norm_by_loops(x, bias, eps):
    part = randomised(LayerNorm(D, eps=eps, bias=bias))
    w, b = part.weight.tolist(), part.bias.tolist() if bias else [0.0] * D
    for token, y in zip(rows(x), rows(part(x)), strict=True):
        mean = sum(token) / D
        deviation = math.sqrt(sum((v - mean) ** 2 for v in token) / D + eps)
        assert y == pytest.approx([w[i] * (token[i] - mean) / deviation + b[i] for i in range(D)], rel=1e-10)


@pytest.mark.oracle("rms_norm")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_by_loops(x, bias, offset, eps):
    part = randomised(RMSNorm(D, eps=eps, bias=bias, offset=offset))
    w, b = part.weight.tolist(), part.bias.tolist() if bias else [0.0] * D
    for token, y in zip(rows(x), rows(part(x)), strict=True):
        size = math.sqrt(sum(v * v for v in token) / D + eps)
        expected = [(w[i] + offset) * token[i] / size + b[i] for i in range(D)]
        assert y == pytest.approx(expected, rel=1e-10)


@pytest.mark.oracle("dyt")
@pytest.mark.parametrize("bias", [True, False])
def test_dyt_by_loops(x, bias):
    part = randomised(DyT(D, bias=bias))
    w, b = part.weight.tolist(), part.bias.tolist() if bias else [0.0] * D
    for token, y in zip(rows(x), rows(part(x)), strict=True):
        expected = [w[i] * math.tanh(part.alpha.item() * token[i]) + b[i] for i in range(D)]
        assert y == pytest.approx(expected, rel=1e-10)


@pytest.mark.official("rms_norm")
@pytest.mark.parametrize(("offset", "reference"), [(False, LlamaRMSNorm), (True, Gemma3RMSNorm)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_equals_transformers_own(offset, reference, dtype):
    torch.manual_seed(0)
    part, theirs = RMSNorm(64, offset=offset).to(dtype), reference(64, eps=1e-6).to(dtype)
    torch.nn.init.normal_(part.weight, mean=0 if offset else 1, std=0.3)
    theirs.load_state_dict(part.state_dict())
    x = torch.randn(4, 64, dtype=dtype) * 10
    # Llama's rounds once more than ours in bfloat16: before the multiplication by the weight.
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 0}
    torch.testing.assert_close(part(x), theirs(x), **tolerance)


@pytest.mark.parametrize("offset", [True, False])
def test_new_rms_norm_scales_by_one(x, offset):
    y = RMSNorm(D, eps=0.0, offset=offset).double()(x)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 5, dtype=torch.double))


@pytest.mark.oracle("rms_norm", "layer_norm")
def test_rms_norm_of_centred_tokens_is_layer_norm(x):
    centred = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(RMSNorm(D, eps=1e-5).double()(centred), LayerNorm(D).double()(x))


def test_norms_do_not_depend_on_the_scale_and_layer_norm_not_on_a_shift(x):
    layer, rms = LayerNorm(D, eps=0.0).double(), RMSNorm(D, eps=0.0).double()
    torch.testing.assert_close(layer(5 * x + 2), layer(x))
    torch.testing.assert_close(rms(5 * x), rms(x))


@pytest.mark.oracle("dyt")
def test_dyt_with_a_small_slope_is_the_identity_to_first_order(x):
    errors = []
    for alpha in (1e-2, 1e-3):
        part = DyT(D, alpha=alpha).double()
        torch.nn.init.constant_(part.weight, 1 / alpha)
        errors.append((part(x) - x).abs().max().item())
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.05)  # the next term is alpha^2 x^3 / 3


def test_dyt_is_bounded_by_its_weight():
    part = DyT(D)
    assert (part(1e6 * torch.randn(3, D)).abs() <= 1).all()


def test_zero_token_is_finite_with_finite_gradient():
    for part in (LayerNorm(D), RMSNorm(D), DyT(D)):
        x = torch.zeros(2, D, requires_grad=True)
        part(x).sum().backward()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("part", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("eps", [-1e-5, float("nan")])
def test_bad_eps_is_refused(part, eps):
    with pytest.raises(ValueError, match="eps must be at least 0"):
        part(D, eps=eps)


def test_a_slope_of_zero_is_refused():
    with pytest.raises(ValueError, match="alpha=0"):
        DyT(D, alpha=0.0)
