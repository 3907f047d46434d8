"""Fused attention against softmax attention, in float64: outputs, states, padding, chunks, and who may write where."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from layersmith.kernels import causal, native
from layersmith.mixer import fused_attention
from layersmith.mixer.fused_attention import FusedAttention
from layersmith.mixer.shared import key_values
from layersmith.mixer.shared.rope import rotary_table, rotate
from layersmith.mixer.shared.turning import turn, turning_rows
from layersmith.mixer.softmax import SoftmaxAttention

CONFIGS = [
    {},
    {"n_kv_heads": 2, "rope_theta": 100.0},
    {"n_kv_heads": 1, "head_dim": 6, "bias": True, "out_bias": True, "scale": 0.3},
    {"n_kv_heads": 2, "rope_theta": 100.0, "rope_fraction": 0.5, "rope_interleaved": True, "qk_norm": True},
    {"rope_theta": 100.0, "window": 5},
    {"causal": False, "rope_theta": 100.0, "n_kv_heads": 2, "window": 3},
]
MASKS = [
    None,
    [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]],
    [[1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0, 1, 1, 1]],
]


def pair(config, one_row=False):
    torch.manual_seed(0)
    plain = SoftmaxAttention(16, 4, **config).double()
    for norm in (plain.q_norm, plain.k_norm):
        for gain in norm.parameters():
            torch.nn.init.normal_(gain)
    fused = FusedAttention(16, 4, **config, one_row=one_row).double()
    state = plain.state_dict()
    for kind in ("weight", "bias") if config.get("bias") else ("weight",):
        state[f"qkv.{kind}"] = torch.cat([state.pop(f"{name}.{kind}") for name in "qkv"])
    fused.load_state_dict(state)
    return plain, fused


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("mask", MASKS, ids=["all-real", "left", "right-and-inside"])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.oracle("fused_attention")
def test_equals_softmax_attention(config, mask):
    plain, fused = pair(config)
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    real = None if mask is None else torch.tensor(mask).bool()
    want, state = plain(x, mask=real)
    y, fused_state = fused(x, mask=real)
    close(y, want)
    assert (state is None) == (fused_state is None)
    for name in state or {}:
        close(fused_state[name].double(), state[name].double())


@torch.no_grad()
@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("config", CONFIGS[:5])
def test_chunks_and_single_tokens_with_a_settled_state(config, batch, one_row, monkeypatch):
    monkeypatch.setattr(key_values, "ROOM", 4)
    plain, fused = pair(config, one_row)
    x = torch.randn(batch, 19, 16, dtype=torch.float64)
    state, parts = None, []
    for part in x.split([4, 1, 1, 1, 5, 1, 6], dim=1):
        y, state = fused(part, state)
        state = fused.settled(state)
        parts.append(y)
    close(torch.cat(parts, 1), plain(x)[0])


@torch.no_grad()
def test_a_state_that_is_not_settled_can_be_gone_on_from_twice():
    _, fused = pair(CONFIGS[1])
    x = torch.randn(1, 8, 16, dtype=torch.float64)
    _, state = fused(x[:, :6])
    _, one = fused(x[:, 6:7], state)
    kept = one["k"].clone()
    fused(x[:, 7:], state)
    close(one["k"], kept)


@torch.no_grad()
def test_a_settled_state_is_written_behind_and_nothing_made_from_it_is():
    _, fused = pair(CONFIGS[1])
    x = torch.randn(2, 8, 16, dtype=torch.float64)
    settled = fused.settled(fused(x[:, :6])[1])
    grown = fused(x[:, 6:7], settled)[1]
    assert grown["k"].data_ptr() == settled["k"].data_ptr(), "without a copy"
    assert grown["k"].shape[2] == 7
    for other in ({n: t[torch.tensor([1, 0])] for n, t in grown.items()}, {n: t[:] for n, t in grown.items()}):
        longer = fused(x[:, 7:], other)[1]
        assert longer["k"].data_ptr() != other["k"].data_ptr()
    twice = copy.deepcopy(grown)
    assert twice["k"].data_ptr() != grown["k"].data_ptr()
    one, other = fused(x[:, 7:], grown)[0], fused(x[:, 7:], twice)[0]
    close(one, other)


def test_training_does_not_write_into_what_backward_needs():
    _, fused = pair(CONFIGS[1])
    x = torch.randn(1, 4, 16, dtype=torch.float64)
    with torch.no_grad():
        state = fused.settled(fused(x)[1])
    before = state["k"].clone()
    y, state = fused(x, state)
    fused.settled(state)
    y.sum().backward()
    assert torch.isfinite(fused.qkv.weight.grad).all()
    close(state["k"][:, :, :4], before)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("size", [8, 4])
def test_turning_is_rotating(size, interleaved):
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    seen = torch.tensor([300, 7])
    cos, sin = turning_rows(x, None, seen, size=size, theta=100.0, interleaved=interleaved)
    positions = seen[:, None] + torch.arange(3)
    want = rotate(x.transpose(1, 2), rotary_table(positions, size, 100.0, x.dtype), interleaved).transpose(1, 2)
    close(turn(x, cos, sin, interleaved), want)


@torch.no_grad()
@pytest.mark.oracle("fused_attention")
@pytest.mark.parametrize("tokens", [causal.FEWEST, 2 * causal.STEP + 1, 3 * causal.STEP + 40])
@pytest.mark.parametrize("config", CONFIGS[:3])
def test_without_the_upper_half_it_equals_softmax_attention(config, tokens, monkeypatch):
    plain, fused = pair(config)
    x = torch.randn(2, tokens, 16, dtype=torch.float64)
    taken = []

    def watched(*given):
        taken.append(given[0].shape[2])
        return causal.causal_attention(*given)

    monkeypatch.setattr(fused_attention, "causal_attention", watched)
    close(fused(x)[0], plain(x)[0])
    assert taken == [tokens]


def test_it_is_not_asked_where_something_else_is_wanted(monkeypatch):
    """Training, padding, windows, a text after another one, and texts on which steps do not pay."""
    monkeypatch.setattr(fused_attention, "causal_attention", lambda *given: pytest.fail("asked"))
    tokens = 2 * causal.STEP
    x = torch.randn(1, tokens, 16, dtype=torch.float64)
    _, fused = pair({})
    fused(x)  # gradients are on
    with torch.no_grad():
        padded = torch.ones(1, tokens, dtype=torch.bool)
        padded[0, 0] = False
        fused(x, mask=padded)
        _, state = fused(x[:, : causal.FEWEST - 1])
        fused(x, state)
        pair({"window": 5})[1](x)
        pair({"causal": False})[1](x)
        pair({"log_length": True})[1](x)


@torch.no_grad()
@pytest.mark.oracle("fused_attention")
@pytest.mark.parametrize(
    ("config", "first"),
    [(config, first) for config in CONFIGS for first in (0, 7, 40) if config.get("causal", True) or not first],
)
def test_by_the_compiled_kernel_it_equals_softmax_attention(config, first, monkeypatch):
    """At once, and behind a first piece of the text; what the kernel does not do is not asked of it."""
    assert native.loaded(), "this test needs a C++ compiler and ninja"
    plain, fused = pair(config)
    x = torch.randn(2, first + 50, 16, dtype=torch.float64)
    asked = []
    monkeypatch.setattr(
        fused_attention, "causal_attention", lambda *given: asked.append(1) or causal.causal_attention(*given)
    )
    want = plain(x)[0][:, first:]
    fused, state = fused.float(), None
    if first:
        _, state = fused(x[:, :first].float())
    asked.clear()
    got = fused(x[:, first:].float(), state)[0]
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    assert bool(asked) == ("window" not in config and config.get("causal", True))


@torch.no_grad()
def test_it_counts_as_the_whole_square():
    plain, fused = pair({"n_kv_heads": 2})
    x = torch.randn(2, 3 * causal.STEP, 16, dtype=torch.float64)
    counted = []
    for module in (plain, fused):
        # The counter knows no CPU flash-attention kernel; the plain one does the same products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            module(x)
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1]
