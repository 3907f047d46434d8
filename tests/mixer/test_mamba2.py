"""Mamba-2 against float64 loops of the equation, its limit as linear attention, and transformers' mixer."""

import math

import pytest
import torch
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.mamba2 import Mamba2
from tests.mixer.by_steps import causal_filter, silu, softplus, taps


def mamba2_by_loops(m: Mamba2, x: torch.Tensor) -> torch.Tensor:
    """The whole layer for one sequence x (T, D), one number at a time."""
    heads, head_dim, n, groups = len(m.d), m.head_dim, m.d_state, m.n_groups
    per_group, queries = heads // groups, m.c.out_features // (groups * n)
    joined = torch.cat((m.x(x), m.b(x), m.c(x)), -1).tolist()
    joined = [[silu(e) if m.silu else e for e in row] for row in causal_filter(joined, *taps(m.conv))]
    memory = [[[0.0] * head_dim for _ in range(n)] for _ in range(heads)]
    rows = []
    for t, row in enumerate(joined):
        values, keys = row[: heads * head_dim], row[heads * head_dim : heads * head_dim + groups * n]
        reads, out = row[heads * head_dim + groups * n :], []
        for h in range(heads):
            dt = softplus(float(m.dt(x[t])[h]))
            decay = math.exp(-dt * math.exp(float(m.log_a[h])))
            key = keys[h // per_group * n :]
            for i in range(n):
                for j in range(head_dim):
                    memory[h][i][j] = decay * memory[h][i][j] + dt * key[i] * values[h * head_dim + j]
        for g in range(groups):
            for which in range(queries):
                c = reads[(g * queries + which) * n :]
                for h in range(g * per_group, (g + 1) * per_group):
                    for j in range(head_dim):
                        read = sum(c[i] * memory[h][i][j] for i in range(n))
                        out.append(read + float(m.d[h]) * values[h * head_dim + j])
        rows.append(out)
    if m.z is not None:
        rows = [[e * silu(g) for e, g in zip(a, b, strict=True)] for a, b in zip(rows, m.z(x).tolist(), strict=True)]
    if m.norm is not None:
        size, weight = len(rows[0]) // groups, m.norm.tolist()
        for row in rows:
            for g in range(groups):
                part = range(g * size, (g + 1) * size)
                scale = math.sqrt(sum(row[i] ** 2 for i in part) / size + m.eps)
                for i in part:
                    row[i] *= weight[i] / scale
    return m.o(torch.tensor(rows, dtype=x.dtype))


def jittered(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.double()


@pytest.mark.oracle("mamba2")
@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"n_groups": 2},
        {"n_groups": 1, "bias": True, "head_dim": 3},
        {"n_groups": 2, "queries": 3, "gated": False, "silu": False, "conv_bias": False},
        {"n_groups": 4, "queries": 2, "norm": False, "conv": 1},
    ],
    ids=str,
)
def test_equals_loops(settings):
    torch.manual_seed(0)
    m = jittered(Mamba2(8, 4, d_state=3, chunk=4, **settings))
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    want = torch.stack([mamba2_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("mamba2")
@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("rotated", [{}, {"rope_theta": 100.0, "rope_fraction": 0.5, "qk_norm": True}], ids=str)
def test_without_decay_gate_norm_and_convolution_it_is_linear_attention(kv_heads, rotated):
    """Values, keys, queries and outputs carried over, every step 1: causal linear attention without a normaliser."""
    torch.manual_seed(0)
    attention = LinearAttention(16, 4, kv_heads, feature_map="identity", normalize=False, **rotated).double()
    groups = {"n_groups": kv_heads, "queries": 4 // kv_heads, **rotated}
    m = Mamba2(16, kv_heads, 4, d_state=4, gated=False, norm=False, silu=False, **groups).double()
    for ours, theirs in ((m.x, attention.v), (m.b, attention.k), (m.c, attention.q), (m.o, attention.o)):
        ours.weight.copy_(theirs.weight)
    m.conv.weight.zero_()
    m.conv.weight[..., -1] = 1
    m.conv.bias.zero_()
    m.dt.weight.zero_()
    m.dt.bias.fill_(math.log(math.e - 1))  # softplus gives 1
    m.log_a.fill_(-math.inf)
    m.d.zero_()
    x = torch.randn(2, 150, 16, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], attention(x)[0], atol=1e-10, rtol=0)


def official(**settings):
    """transformers' mixer, and ours with its weights."""
    torch.manual_seed(0)
    config = Mamba2Config(
        hidden_size=16, num_heads=4, head_dim=8, state_size=6, n_groups=2, chunk_size=8, num_hidden_layers=1, **settings
    )
    theirs = Mamba2Mixer(config, layer_idx=0).eval()
    ours = Mamba2(16, 4, d_state=6, n_groups=2, chunk=16, bias=config.use_bias, conv_bias=config.use_conv_bias)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.05 * torch.randn_like(p))
        maps = (ours.z, ours.x, ours.b, ours.c, ours.dt)
        for name in ("weight", "bias") if config.use_bias else ("weight",):
            rows = getattr(theirs.in_proj, name).split([32, *ours.widths, 4])
            for part, own in zip(maps, rows, strict=True):
                getattr(part, name).copy_(own)
        if not config.use_bias:
            ours.dt.bias.zero_()
        ours.dt.bias.add_(theirs.dt_bias)
        ours.log_a.copy_(theirs.A_log)
        ours.d.copy_(theirs.D)
        ours.norm.copy_(theirs.norm.weight)
        ours.conv.load_state_dict(theirs.conv1d.state_dict())
        ours.o.load_state_dict(theirs.out_proj.state_dict())
    return theirs, ours


@pytest.mark.official("mamba2")
@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"use_bias": True}, {"use_conv_bias": False}], ids=str)
@pytest.mark.parametrize("tokens", [1, 29])
def test_equals_transformers(settings, tokens):
    theirs, ours = official(**settings)
    x = torch.randn(2, tokens, 16)
    torch.testing.assert_close(ours(x)[0], theirs(x), atol=2e-6, rtol=0)


@pytest.mark.official("mamba2")
@torch.no_grad()
def test_equals_transformers_behind_left_padding():
    theirs, ours = official()
    mask = torch.tensor([[0] * 5 + [1] * 15, [1] * 20]).bool()
    x = torch.randn(2, 20, 16)
    want = theirs(x, attention_mask=mask)
    torch.testing.assert_close(ours(x, mask=mask)[0][mask], want[mask], atol=2e-6, rtol=0)


@torch.no_grad()
def test_float32_in_chunks_stays_close_for_strong_decays():
    torch.manual_seed(0)
    m = Mamba2(16, 4, d_state=8)
    m.dt.bias.fill_(8.0)
    m.log_a.fill_(4.0)  # exp(-8 * 55) a token
    x = torch.randn(1, 300, 16)
    y = m(x)[0]
    want = m.double()(x.double())[0]
    assert (y - want).abs().max() < 1e-5 * want.abs().max()


def test_starts_as_the_paper_has_it():
    torch.manual_seed(0)
    m = Mamba2(32, 8)
    steps = torch.nn.functional.softplus(m.dt.bias)
    assert ((steps > 9e-4) & (steps < 0.11)).all()
    torch.testing.assert_close(m.log_a.exp(), torch.arange(1.0, 9))
    assert torch.equal(m.d, torch.ones(8))


def test_cost_counts_products_and_convolutions():
    m = Mamba2(16, 2, head_dim=8, d_state=4, n_groups=2, queries=2, gated=False, chunk=8)
    tokens, chunk = 24, 8
    projections = 2 * tokens * 16 * (16 + 8 + 16 + 2 + 32)
    convolution = 2 * tokens * 40 * 4
    read = 4 * 2 * tokens * chunk * (4 + 8)  # four queries: Q K^T and its product with V
    states = 2 * tokens * 4 * 8 * (2 + 4)  # two heads written, four queries read
    assert m.cost(tokens=tokens).flops == projections + convolution + read + states
    assert m.state_bytes(24) == m.state_bytes(1000) == 4 * (2 * 4 * 8 + 40 * 3)


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match=r"multiple of n_heads=5; give head_dim"):
        Mamba2(16, 5)
    with pytest.raises(ValueError, match="n_heads=4 must be a multiple of n_groups=3"):
        Mamba2(16, 4, n_groups=3)
