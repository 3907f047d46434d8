"""The NiN gate against its parts put together one by one."""

import pytest
import torch
from torch import nn

from layersmith.mixer.mlp_mixer import MLPMixer
from layersmith.mixer.nin_gate import NiNGate


@pytest.mark.oracle("nin_gate")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_by_its_parts(causal):
    torch.manual_seed(0)
    m = NiNGate(4, 8, token_hidden=10, length=5, causal=causal).double()
    for parameter in m.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    tokens = MLPMixer(4, token_hidden=10, length=5, causal=causal).double()
    tokens.tokens.load_state_dict(m.tokens.state_dict())
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    mixed = x + tokens(m.token_norm(x))[0]
    channels = nn.Sequential(m.channel_norm, m.up, nn.GELU(), m.down)
    want = m.value(x) * (mixed + channels(mixed))
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("nin_gate")
@torch.no_grad()
def test_a_mixer_that_adds_nothing_leaves_the_square_of_the_input():
    m, x = NiNGate(4, 8, token_hidden=10, length=5), torch.randn(2, 5, 4)
    for parameter in [*m.tokens.parameters(), *m.down.parameters()]:
        parameter.zero_()
    m.value.weight.copy_(torch.eye(4))
    m.value.bias.zero_()
    torch.testing.assert_close(m(x)[0], x * x)
