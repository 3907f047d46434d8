"""silu(g) u in one pass: the compiled kernel against float64, at both ends of the line, and who is served by it."""

import pytest
import torch
from torch import library

from layersmith.ffn.fused_glu import FusedGLU
from layersmith.kernels import gated, native


@pytest.fixture(autouse=True)
def _kernels():
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2,), (1, 1, 3072), (5, 7, 38), (400, 64), (0, 8)])
def test_is_silu_of_the_gate_times_up(shape):
    torch.manual_seed(0)
    x = 5 * torch.randn(shape)
    gate, up = x.double().chunk(2, dim=-1)
    want = gate / (1 + (-gate).exp()) * up
    torch.testing.assert_close(gated.silu_gate(x).double(), want, rtol=1e-6, atol=1e-30)


@torch.no_grad()
def test_far_from_zero_and_not_a_number():
    gate = torch.tensor([-1e4, -90.0, -80.0, -0.0, 80.0, 1e4, 3e38, float("nan")])
    y = gated.silu_gate(torch.cat((gate, torch.ones(8))))
    assert y[:2].tolist() == [0, 0]
    assert y[2] == pytest.approx(-80 * 1.804851387845415e-35, rel=1e-5)
    torch.testing.assert_close(y[3:7], gate[3:7])
    assert y[7].isnan()
    assert gated.silu_gate(torch.tensor([1.0, float("nan")])).isnan()


def test_who_is_served(monkeypatch):
    calls, run = [], gated.silu_gate
    monkeypatch.setattr(gated, "silu_gate", lambda x: calls.append(1) or run(x))
    x = torch.randn(2, 8)
    with torch.no_grad():
        y = FusedGLU(8, 12)(x)
        assert y.shape == x.shape
        assert len(calls) == 1
        FusedGLU(8, 12, act="gelu")(x)
        FusedGLU(8, 12).double()(x.double())
        with torch.autocast("cpu", torch.bfloat16):
            FusedGLU(8, 12)(x)
        assert len(calls) == 1
        many = torch.randn(gated.MOST // 24 + 1, 8)  # which torch's own operations serve better
        FusedGLU(8, 12)(many)
        assert len(calls) == 1
        FusedGLU(8, 12)(many[1:])
        assert len(calls) == 2
    FusedGLU(8, 12)(x).sum().backward()
    assert len(calls) == 2


def test_torch_s_rules_for_operators():
    rules = ("test_schema", "test_faketensor")
    library.opcheck(torch.ops.layersmith.silu_gate.default, (torch.randn(3, 16),), test_utils=rules)
