"""The token MLP of MLP-Mixer against a loop over channels, and what its causal form may read."""

import pytest
import torch
from torch import nn

from layersmith.mixer.mlp_mixer import MLPMixer


@pytest.mark.oracle("mlp_mixer")
@torch.no_grad()
def test_whole_form_is_one_mlp_for_every_channel():
    torch.manual_seed(0)
    m = MLPMixer(3, token_hidden=7, length=5, causal=False).double()
    up, down = nn.Linear(5, 7).double(), nn.Linear(7, 5).double()
    tokens = {"up": up.weight, "up_bias": up.bias, "down": down.weight, "down_bias": down.bias}
    m.tokens.load_state_dict(tokens)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    for b in range(2):
        for c in range(3):
            want = down(nn.functional.gelu(up(x[b, :, c])))
            torch.testing.assert_close(m(x)[0][b, :, c], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("mlp_mixer")
@torch.no_grad()
@pytest.mark.parametrize("hidden", [3, 6, 13])
def test_causal_form_by_loops(hidden):
    """Unit h stands at the last position of its share of the sequence: it reads up to there, and is read from there."""
    torch.manual_seed(0)
    m = MLPMixer(2, token_hidden=hidden, length=6).double()
    nn.init.normal_(m.tokens.up_bias)
    x, want = torch.randn(1, 6, 2, dtype=torch.float64), torch.zeros(1, 6, 2, dtype=torch.float64)
    for c in range(2):
        units = []
        for h in range(hidden):
            place = next(p for p in range(6) if (p + 1) * hidden >= (h + 1) * 6)
            total = sum(m.tokens.up[h, s] * x[0, s, c] for s in range(place + 1)) + m.tokens.up_bias[h]
            units.append((place, nn.functional.gelu(total)))
        for t in range(6):
            read = sum(m.tokens.down[t, h] * unit for h, (place, unit) in enumerate(units) if place <= t)
            want[0, t, c] = read + m.tokens.down_bias[t]
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


def test_state_does_not_grow():
    m = MLPMixer(4, token_hidden=8, length=32)
    assert m.state_bytes(1) == m.state_bytes(32) == 8 * 4 * 4 + 8
