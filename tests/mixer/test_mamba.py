"""Mamba against float64 loops of the equation, its limit as a filter, and transformers' mixer."""

import math

import pytest
import torch
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from layersmith.mixer.bidirectional_mamba import BidirectionalMamba
from layersmith.mixer.mamba import Mamba
from layersmith.mixer.shared.selective import selective_scan
from tests.mixer.by_steps import causal_filter, silu, softplus, taps


def mamba_by_loops(m: Mamba, u: torch.Tensor) -> torch.Tensor:
    """The whole layer for one sequence u (T, D), one number at a time."""
    x = [[silu(e) for e in row] for row in causal_filter(m.x(u).tolist(), *taps(m.conv))]
    rank, n, _ = m.sizes
    h = [[0.0] * n for _ in x[0]]
    rows = []
    for t, row in enumerate(x):
        chosen = (m.select.weight @ torch.tensor(row, dtype=u.dtype)).tolist()
        steps = m.dt(torch.tensor(chosen[:rank], dtype=u.dtype)).tolist()
        b, c, gate = chosen[rank : rank + n], chosen[rank + n :], m.z(u[t]).tolist()
        out = []
        for d, value in enumerate(row):
            dt = softplus(steps[d])
            for i in range(n):
                h[d][i] = math.exp(-dt * math.exp(float(m.log_a[d, i]))) * h[d][i] + dt * value * b[i]
            read = sum(h[d][i] * c[i] for i in range(n)) + float(m.d[d]) * value
            out.append(read * silu(gate[d]))
        rows.append(out)
    return m.o(torch.tensor(rows, dtype=u.dtype))


@pytest.mark.oracle("mamba")
@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"bias": True, "conv_bias": False, "dt_rank": 3, "expand": 1}], ids=str)
def test_equals_loops(settings):
    torch.manual_seed(0)
    m = Mamba(6, d_state=3, chunk=4, **settings).double()
    for parameter in m.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    u = torch.randn(2, 11, 6, dtype=torch.float64)
    want = torch.stack([mamba_by_loops(m, row) for row in u])
    torch.testing.assert_close(m(u)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("mamba")
@torch.no_grad()
def test_without_selection_it_is_one_fixed_filter():
    """With steps that no token chooses, and b and c held fixed, the scan is a convolution."""
    torch.manual_seed(0)
    tokens, channels, n = 40, 5, 3
    dt = torch.rand(channels, dtype=torch.float64).expand(1, tokens, channels)
    a = -torch.rand(n, channels, dtype=torch.float64)
    b, c = torch.randn(2, n, dtype=torch.float64)
    u = torch.randn(1, tokens, channels, dtype=torch.float64)
    fixed = (b.expand(1, tokens, n), c.expand(1, tokens, n), torch.zeros(1, n, channels, dtype=torch.float64))
    y, _ = selective_scan(u, dt, a, *fixed, size=8)
    lags = torch.arange(tokens, dtype=torch.float64)
    kernel = ((lags[:, None, None] * dt[0, 0] * a).exp() * (b * c)[:, None]).sum(1) * dt[0, 0]  # (T, D)
    want = torch.stack([(kernel[: t + 1].flip(0) * u[0, : t + 1]).sum(0) for t in range(tokens)])
    torch.testing.assert_close(y[0], want, atol=1e-12, rtol=0)


def official(**settings):
    """transformers' mixer, and ours with its weights."""
    torch.manual_seed(0)
    config = MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, use_mambapy=False, **settings)
    theirs = MambaMixer(config, layer_idx=0).eval()
    ours = Mamba(16, d_state=4, bias=config.use_bias, conv_bias=config.use_conv_bias, chunk=8)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.05 * torch.randn_like(p))
        for name in ("weight", "bias") if config.use_bias else ("weight",):
            x, z = getattr(theirs.in_proj, name).chunk(2)
            getattr(ours.x, name).copy_(x)
            getattr(ours.z, name).copy_(z)
        ours.log_a.copy_(theirs.A_log)
        ours.d.copy_(theirs.D)
        pairs = ((ours.conv, theirs.conv1d), (ours.select, theirs.x_proj), (ours.dt, theirs.dt_proj))
        for part, original in (*pairs, (ours.o, theirs.out_proj)):
            part.load_state_dict(original.state_dict())
    return theirs, ours


@pytest.mark.official("mamba")
@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"use_bias": True}, {"use_conv_bias": False}], ids=str)
@pytest.mark.parametrize("tokens", [1, 29])
def test_equals_transformers(settings, tokens):
    theirs, ours = official(**settings)
    x = torch.randn(2, tokens, 16)
    torch.testing.assert_close(ours(x)[0], theirs(x), atol=2e-6, rtol=0)


@pytest.mark.official("mamba")
@torch.no_grad()
def test_equals_transformers_behind_left_padding():
    theirs, ours = official()
    mask = torch.tensor([[0] * 5 + [1] * 15, [1] * 20]).bool()
    x = torch.randn(2, 20, 16)
    want = theirs(x, attention_mask=mask)
    torch.testing.assert_close(ours(x, mask=mask)[0][mask], want[mask], atol=2e-6, rtol=0)


def test_state_has_a_constant_size():
    m = Mamba(16, d_state=4)
    assert m.state_bytes(3) == m.state_bytes(1000) == 4 * (32 * 4 + 32 * 3)


@pytest.mark.oracle("bidirectional_mamba")
@torch.no_grad()
def test_bidirectional_is_loops_from_both_ends():
    torch.manual_seed(0)
    m = BidirectionalMamba(6, d_state=3, chunk=4).double()
    u = torch.randn(9, 6, dtype=torch.float64)
    want = mamba_by_loops(m.mamba, u) + mamba_by_loops(m.mamba, u.flip(0)).flip(0)
    torch.testing.assert_close(m(u[None])[0][0], want, atol=1e-12, rtol=0)
