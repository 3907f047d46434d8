"""RMS norm in one call: the compiled kernel against the formula in float64, and who is served by it."""

import pytest
import torch
from torch import library, nn

from layersmith.kernels import native, rms
from layersmith.norm.rms_norm import RMSNorm


@pytest.fixture(autouse=True)
def _kernels():
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")


@torch.no_grad()
@pytest.mark.oracle("rms_norm")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5])
@pytest.mark.parametrize("shape", [(1,), (1, 1, 576), (5, 7, 37), (300, 64), (0, 8)])
def test_is_the_formula(shape, eps, offset, bias):
    torch.manual_seed(0)
    part = RMSNorm(shape[-1], eps, bias, offset)
    for parameter in part.parameters():
        nn.init.normal_(parameter)
    x = 3 * torch.randn(shape) + 1
    x[..., 0] *= 300
    wide, weight = x.double(), part.weight.double() + offset
    want = weight * wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()
    if bias:
        want = want + part.bias.double()
    got = rms.rms_norm(x, part.weight, part.bias, eps, offset)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
    assert torch.equal(part(x), got)


def test_who_is_served(monkeypatch):
    calls, run = [], rms.rms_norm
    monkeypatch.setattr(rms, "rms_norm", lambda *args: calls.append(1) or run(*args))
    part, x = RMSNorm(8), torch.randn(2, 8)
    with torch.no_grad():
        part(x)
        assert len(calls) == 1
        part(torch.randn(8, 2).T)
        part(x.bfloat16())
        part.double()(x.double())
    part.float()(x).sum().backward()
    assert len(calls) == 1


def test_torch_s_rules_for_operators():
    rules = ("test_schema", "test_faketensor")
    arguments = (torch.randn(3, 16), torch.randn(16), None, 1e-6, False)
    library.opcheck(torch.ops.layersmith.rms_norm.default, arguments, test_utils=rules)
