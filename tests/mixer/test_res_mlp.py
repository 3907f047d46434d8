"""ResMLP against loops, with nothing to mix, and with its affine map folded away."""

import pytest
import torch

from layersmith.mixer.res_mlp import ResMLP


def random(causal=True, length=6):
    torch.manual_seed(0)
    m = ResMLP(3, length=length, causal=causal).double()
    for parameter in m.parameters():
        torch.nn.init.normal_(parameter)
    return m


@pytest.mark.oracle("res_mlp")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_by_loops(causal):
    m, x = random(causal), torch.randn(2, 6, 3, dtype=torch.float64)
    want = torch.zeros_like(x)
    for b in range(2):
        for t in range(6):
            for c in range(3):
                read = range(t + 1) if causal else range(6)
                mixed = sum(m.positions.weight[0, t, s] * (m.alpha[c] * x[b, s, c] + m.beta[c]) for s in read)
                want[b, t, c] = m.scale[c] * (mixed + m.positions.bias[0, t])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("res_mlp")
@torch.no_grad()
def test_without_a_matrix_nothing_is_added():
    m, x = random(), torch.randn(2, 6, 3, dtype=torch.float64)
    m.positions.weight.zero_()
    m.positions.bias.zero_()
    assert not m(x)[0].any()


@pytest.mark.oracle("res_mlp")
@torch.no_grad()
def test_alpha_folds_into_the_scale():
    """A is the same for every channel, so what scales a channel before it may as well scale it behind."""
    m, x = random(False), torch.randn(2, 6, 3, dtype=torch.float64)
    m.beta.zero_()
    m.positions.bias.zero_()
    folded = ResMLP(3, length=6, causal=False).double()
    folded.load_state_dict(m.state_dict() | {"alpha": torch.ones(3).double(), "scale": m.scale * m.alpha})
    torch.testing.assert_close(folded(x)[0], m(x)[0], atol=1e-12, rtol=0)
