"""Shifted-window attention against dense attention with its mask written out, its limit, and transformers' Swin."""

import math

import pytest
import torch
from transformers import SwinConfig
from transformers.models.swin.modeling_swin import SwinLayer

from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.mixer.swin_attention import SwinAttention


def by_pairs(m, x):
    """The equation, one head and one pair of tokens at a time, for one map x (T, D)."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    q, k, v = m.q(x), m.k(x), m.v(x)
    where = [(p // m.width, p % m.width) for p in range(len(x))]
    window = [((row + m.early) // m.window, (column + m.early) // m.window) for row, column in where]
    out = torch.zeros_like(q)
    for h in range(heads):
        own, g = slice(h * d, (h + 1) * d), h // (heads // m.n_kv_heads)
        shared = slice(g * d, (g + 1) * d)
        for t in range(len(x)):
            weights = {}
            for s in range(len(x)):
                if window[s] == window[t]:
                    row, column = (a - b + m.window - 1 for a, b in zip(where[t], where[s], strict=True))
                    weights[s] = math.exp(m.scale * float(q[t, own] @ k[s, shared]) + float(m.offsets[h, row, column]))
            for s, weight in weights.items():
                out[t, own] += weight / sum(weights.values()) * v[s, shared]
    return m.o(out)


def built(**changes):
    torch.manual_seed(0)
    m = SwinAttention(16, 4, **{"width": 7, "window": 3, "n_kv_heads": 2, **changes}).double()
    torch.nn.init.normal_(m.offsets)
    return m


def inputs(*shape):
    return torch.randn(*shape, 16, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.oracle("swin_attention")
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("tokens", [35, 31, 5])
def test_equals_pairs(shifted, tokens):
    m = built(shifted=shifted)
    x = inputs(2, tokens)
    close(m(x)[0], torch.stack([by_pairs(m, row) for row in x]))


@torch.no_grad()
@pytest.mark.oracle("swin_attention")
def test_a_window_as_large_as_the_map_is_global_attention_with_a_bias():
    m, full = built(window=6, width=6), SoftmaxAttention(16, 4, n_kv_heads=2, causal=False, bias=True, out_bias=True)
    m.load_state_dict({**full.double().state_dict(), "offsets": torch.zeros_like(m.offsets)})
    x = inputs(2, 36)
    close(m(x)[0], full(x)[0])
    torch.nn.init.normal_(m.offsets)
    assert (m(x)[0] - full(x)[0]).abs().max() > 1e-3


@torch.no_grad()
def test_padding_changes_nothing_wherever_it_stands():
    m = built(shifted=True)
    mask = torch.ones(4, 20, dtype=torch.bool)
    mask[0, :6] = mask[1, 15:] = mask[2, [1, 2, 7, 13]] = mask[3] = False
    x = inputs(4, 20)
    y, state = m(x, mask=mask)
    assert state is None
    assert y.isfinite().all()
    for row in range(3):
        close(y[row, mask[row]], m(x[row : row + 1, mask[row]])[0][0])


@torch.no_grad()
@pytest.mark.official("swin_attention")
@pytest.mark.parametrize("shift", [0, 2])
def test_equals_transformers_swin(shift):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2], "num_heads": [2], "window_size": 4}
    config = SwinConfig(**sizes, mlp_ratio=1.0, attn_implementation="eager")
    layer = SwinLayer(config, 16, (8, 8), 2, shift_size=shift).eval()
    theirs = layer.attention
    table = theirs.relative_position_bias.relative_position_bias_table
    torch.nn.init.normal_(table)
    m = SwinAttention(16, 2, width=8, window=4, shifted=shift > 0)
    for ours, name in ((m.q, "q_proj"), (m.k, "k_proj"), (m.v, "v_proj"), (m.o, "o_proj")):
        ours.load_state_dict(getattr(theirs, name).state_dict())
    m.offsets.copy_(table.T.unflatten(1, (7, 7)))
    seen = {}
    layer.layernorm_before.register_forward_hook(lambda _m, _a, out: seen.update(x=out))
    layer.layernorm_after.register_forward_pre_hook(lambda _m, args: seen.update(after=args[0]))
    x = torch.randn(2, 64, 16)
    layer(x, (8, 8))
    torch.testing.assert_close(m(seen["x"])[0], seen["after"] - x, atol=1e-5, rtol=0)


def test_work_grows_with_the_map_and_not_with_its_square():
    m = built(width=24, window=4)
    assert m.cost(1, 24 * 96).flops == 4 * m.cost(1, 24 * 24).flops
