"""Nested GLU: every width by loops, the whole one is the GLU, and training draws among the widths."""

import math

import pytest
import torch

from layersmith.ffn.glu import GLU
from layersmith.ffn.nested_glu import NestedGLU

D, HIDDEN = 5, 12


def part(**config) -> NestedGLU:
    torch.manual_seed(0)
    return NestedGLU(D, HIDDEN, **{"bias": True, **config}).double().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, D, dtype=torch.double, generator=torch.Generator().manual_seed(1))


@pytest.mark.oracle("nested_glu")
@pytest.mark.parametrize("width", [1, 3, 7, None])
def test_by_loops(x, width):
    m = part(width=width)
    for token, y in zip(x.reshape(-1, D), m(x).reshape(-1, D), strict=True):
        want = m.down.bias.clone()
        for channel in range(width or HIDDEN):
            gate = (m.gate.weight[channel] @ token + m.gate.bias[channel]).item()
            up = m.up.weight[channel] @ token + m.up.bias[channel]
            want = want + m.down.weight[:, channel] * up * gate / (1 + math.exp(-gate))
        torch.testing.assert_close(y, want)


@pytest.mark.oracle("nested_glu")
def test_the_whole_is_the_glu_and_a_slice_is_the_rest_masked(x):
    m, glu = part(), GLU(D, HIDDEN, bias=True).double()
    glu.load_state_dict(m.state_dict())
    assert torch.equal(m(x), glu(x))
    with torch.no_grad():
        glu.down.weight[:, 4:] = 0
    torch.testing.assert_close(m.sliced(4)(x), glu(x))
    torch.testing.assert_close(part(width=4)(x), glu(x))


def test_training_draws_every_width(x):
    m = part(widths=[2, 12]).train()
    torch.manual_seed(0)
    seen = [m(x) for _ in range(12)]
    wide, narrow = m.eval()(x), m.sliced(2)(x)
    assert {torch.allclose(y, wide) for y in seen} == {True, False}
    assert all(torch.allclose(y, wide) or torch.allclose(y, narrow) for y in seen)
    assert NestedGLU(8, 64).widths == [8, 16, 32, 64]


def test_a_narrow_one_reads_and_computes_less():
    whole, half = part().cost(1, 2), part(width=6).cost(1, 2)
    assert (half.flops, whole.params) == (whole.flops // 2, half.params)
    assert half.active_params == whole.active_params - 6 * (3 * D + 2)


@pytest.mark.parametrize("config", [{"widths": [4, 8]}, {"widths": [12, 4]}, {"width": 13}, {"width": 0}], ids=str)
def test_bad_configuration_is_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        part(**config)
