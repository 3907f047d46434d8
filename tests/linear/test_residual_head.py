"""A head with a feed-forward beside it: by loops, as it starts, and as the linear map it can be."""

import math

import pytest
import torch
import torch.nn.functional as F

from layersmith.linear.residual_head import ResidualHead

ACTS = {
    "identity": lambda e: e,
    "relu": lambda e: max(e, 0.0),
    "gelu": lambda e: e * (1 + math.erf(e / math.sqrt(2))) / 2,
    "silu": lambda e: e / (1 + math.exp(-e)),
}


def times(weight: torch.Tensor, x: list[float]) -> list[float]:
    return [sum(w * e for w, e in zip(row, x, strict=True)) for row in weight.tolist()]


@pytest.mark.oracle("residual_head")
@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_equals_loops(act, gated):
    torch.manual_seed(0)
    m, x = ResidualHead(5, 3, 7, act, gated).double(), torch.randn(4, 5, dtype=torch.float64)
    m.down.weight.normal_()
    for token, y in zip(x.tolist(), m(x), strict=True):
        up = times(m.up.weight, token)
        bent = [ACTS[act](e) for e in (times(m.gate.weight, token) if gated else up)]
        hidden = [a * b for a, b in zip(bent, up, strict=True)] if gated else bent
        want = [a + b for a, b in zip(times(m.skip.weight, token), times(m.down.weight, hidden), strict=True)]
        torch.testing.assert_close(y, torch.tensor(want, dtype=x.dtype), atol=1e-12, rtol=0)


@pytest.mark.oracle("residual_head")
@torch.no_grad()
def test_it_starts_as_the_map_that_was_there_and_can_stay_linear():
    torch.manual_seed(0)
    old, x = torch.nn.Linear(5, 3, bias=False).double(), torch.randn(4, 5, dtype=torch.float64)
    m = ResidualHead(5, 3, 7).double()
    m.skip.load_state_dict(old.state_dict())
    assert torch.equal(m(x), old(x))
    linear = ResidualHead(5, 3, 7, "identity").double()
    linear.down.weight.normal_()
    whole = linear.skip.weight + linear.down.weight @ linear.up.weight
    torch.testing.assert_close(linear(x), F.linear(x, whole), atol=1e-12, rtol=0)


def test_unknown_activations_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'gelu'"):
        ResidualHead(5, 3, 7, "gleu")
