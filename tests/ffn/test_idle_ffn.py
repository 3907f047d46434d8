"""Channel-idle feed-forward: an oracle, the exact merge, and the MLP and the linear map it contains."""

import math

import pytest
import torch

from layersmith.ffn.glu import GLU
from layersmith.ffn.idle_ffn import IdleFFN
from layersmith.ffn.mlp import MLP

D = 6


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(d_active: int = 5, d_idle: int | None = 7, **config) -> IdleFFN:
    torch.manual_seed(1)
    return IdleFFN(D, d_active, d_idle, **config).double()


def affine(token: list[float], linear: torch.nn.Linear) -> list[float]:
    bias = [0.0] * linear.out_features if linear.bias is None else linear.bias.tolist()
    return [sum(w * v for w, v in zip(row, token, strict=True)) + b
            for row, b in zip(linear.weight.tolist(), bias, strict=True)]  # fmt: skip


def by_loops(m: IdleFFN, token: list[float]) -> list[float]:
    def gelu(v: float) -> float:
        return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))

    hidden = affine(token, m.up)
    gates = affine(token, m.gate) if m.gate is not None else None
    for i in range(m.d_active):
        hidden[i] = gelu(hidden[i]) if gates is None else gelu(gates[i]) * hidden[i]
    y = affine(hidden, m.down)
    return y if m.merged is None else [a + b for a, b in zip(y, affine(token, m.merged), strict=True)]


@pytest.mark.oracle("idle_ffn")
@pytest.mark.parametrize("config", [{}, {"bias": False}, {"gated": True}, {"d_idle": None}, {"d_idle": 0}])
def test_by_loops(x, config):
    m = part(**config)
    for token, y in zip(x.reshape(-1, D).tolist(), m(x).reshape(-1, D).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("idle_ffn")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_merged_equals_unmerged(x, gated, bias):
    m = part(gated=gated, bias=bias)
    merged = m.merge()
    assert merged.spec()["d_idle"] is None
    torch.testing.assert_close(merged(x), m(x), rtol=0, atol=1e-14)
    single, small = m.float(), merged.float()
    torch.testing.assert_close(small(x.float()), single(x.float()), rtol=0, atol=1e-6)


@pytest.mark.oracle("idle_ffn")
def test_without_idle_channels_it_is_the_mlp_or_the_glu(x):
    for gated, dense in ((False, MLP(D, 5)), (True, GLU(D, 5, act="gelu", bias=True))):
        m = part(d_idle=0, gated=gated)
        m.load_state_dict(dense.state_dict())
        torch.testing.assert_close(m(x), dense.double()(x))


@pytest.mark.oracle("idle_ffn")
def test_the_identity_as_activation_makes_it_one_linear_map(x):
    m = part(act="identity")
    torch.testing.assert_close(m(x), m.down(m.up(x)), rtol=1e-12, atol=1e-14)


def test_three_quarters_idle_saves_five_eighths_of_the_parameters():
    m = IdleFFN(32, 32, 96, bias=False)
    assert m.cost().params == 8 * 32**2
    assert m.merge().cost().params == 3 * 32**2
    assert m.merge().cost(2, 5).flops == 2 * 2 * 5 * 3 * 32**2


def test_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="d_idle must be at least 0, or None"):
        part(d_idle=-1)
    with pytest.raises(ValueError, match="merged already"):
        part(d_idle=None).merge()
