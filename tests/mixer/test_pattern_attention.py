"""Pattern attention against a float64 loop over pairs, its limit cases, and what it skips."""

import math

import pytest
import torch

from layersmith.mixer.pattern_attention import PatternAttention
from layersmith.mixer.shared import patterns
from layersmith.mixer.shared.places import Pattern
from layersmith.mixer.softmax import SoftmaxAttention

#: name -> (settings, whether t sees an earlier or later s)
PATTERNS = {
    "window": ({"size": 4}, lambda t, s: abs(t - s) < 4),
    "sinks": ({"size": 3, "first": 2}, lambda t, s: abs(t - s) < 3 or s < 2),
    "block": ({"pattern": "block", "size": 5}, lambda t, s: t // 5 == s // 5),
    "block-sinks": ({"pattern": "block", "size": 5, "first": 3}, lambda t, s: t // 5 == s // 5 or s < 3),
    "shifted": ({"pattern": "shifted", "size": 6}, lambda t, s: (t + 3) // 6 == (s + 3) // 6),
    "dilated": ({"pattern": "dilated", "size": 3, "dilation": 4}, lambda t, s: t % 4 == s % 4 and abs(t - s) <= 8),
    "strided": ({"pattern": "strided", "size": 5}, lambda t, s: abs(t - s) <= 5 or t % 5 == s % 5),
    "fixed": ({"pattern": "fixed", "size": 5, "columns": 2}, lambda t, s: t // 5 == s // 5 or s % 5 in (3, 4)),
}
CAUSAL = [pytest.param(name, True, id=f"{name}-causal") for name in PATTERNS]
BOTH = CAUSAL + [pytest.param(name, False, id=name) for name in PATTERNS]


def by_pairs(m, seen, x):
    """The equation, one head and one pair of tokens at a time, for one text x (T, D)."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    group = heads // m.n_kv_heads
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(heads):
        own, shared = slice(h * d, (h + 1) * d), slice(h // group * d, (h // group + 1) * d)
        for t in range(len(x)):
            keys = [s for s in range(len(x)) if (s <= t or not m.causal) and seen(t, s)]
            bias = [0.0] * len(keys)
            if m.distances is not None:
                reach = m.pattern.size - 1
                bias = [float(m.distances[h, min(max(t - s, -reach), reach) + reach]) for s in keys]
            weights = [math.exp(m.scale * float(q[t, own] @ k[s, shared]) + b) for s, b in zip(keys, bias, strict=True)]
            for weight, s in zip(weights, keys, strict=True):
                out[t, own] += weight / sum(weights) * v[s, shared]
    return m.o(out)


def built(name, causal=True, **changes):
    torch.manual_seed(0)
    settings, seen = PATTERNS[name]
    seen_by_first = settings.get("first", 0)
    m = PatternAttention(16, 4, n_kv_heads=2, causal=causal, **{**settings, **changes}).double()
    return m, lambda t, s: seen(t, s) or (not causal and t < seen_by_first)


def inputs(*shape):
    return torch.randn(*shape, 16, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.oracle("pattern_attention")
@pytest.mark.parametrize(("name", "causal"), BOTH)
def test_equals_pairs(name, causal, monkeypatch):
    monkeypatch.setattr(patterns, "BLOCK", 8)  # several blocks in a short text, the last one cut off
    m, seen = built(name, causal)
    x = inputs(2, 23)
    close(m(x)[0], torch.stack([by_pairs(m, seen, row) for row in x]))


@torch.no_grad()
@pytest.mark.oracle("pattern_attention")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["window", "sinks", "block", "block-sinks", "shifted"])
def test_equals_pairs_with_a_bias_by_distance(name, causal, monkeypatch):
    monkeypatch.setattr(patterns, "BLOCK", 8)
    m, seen = built(name, causal, relative_bias=True)
    m.distances.normal_()
    x = inputs(1, 19)
    want = by_pairs(m, seen, x[0])[None]
    close(m(x)[0], want)
    mask = torch.ones(1, 22, dtype=torch.bool)
    mask[0, [0, 5, 6]] = False
    padded = torch.zeros(1, 22, 16, dtype=torch.float64).masked_scatter(mask[..., None], x)
    close(m(padded, mask=mask)[0][mask], want[0])


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("size", [2, 4, 5])
@pytest.mark.parametrize("name", ["window", "block", "shifted"])
def test_a_bias_by_distance_streams(name, size, first):
    """What is dropped from the state brings first tokens nearer; the bias must not tell."""
    torch.manual_seed(0)
    m = PatternAttention(16, 2, pattern=name, size=size, first=first, relative_bias=True).double()
    m.distances.normal_(std=3)
    x, state, parts = inputs(2, 26), None, []
    for token in x.unbind(1):
        y, state = m(token[:, None], state)
        parts.append(y)
    close(torch.cat(parts, 1), m(x)[0])


@torch.no_grad()
@pytest.mark.oracle("pattern_attention")
@pytest.mark.parametrize(
    "settings",
    [
        {"size": 40},
        {"pattern": "block", "size": 40},
        {"pattern": "dilated", "size": 40, "dilation": 1},
        {"pattern": "strided", "size": 1},
        {"pattern": "strided", "size": 40},
        {"pattern": "fixed", "size": 7, "columns": 7},
        {"size": 1, "first": 40},
    ],
    ids=str,
)
def test_a_pattern_that_holds_everything_is_softmax_attention(settings):
    torch.manual_seed(0)
    full = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0).double()
    m = PatternAttention(16, 4, n_kv_heads=2, rope_theta=100.0, **settings).double()
    m.load_state_dict(full.state_dict())
    x = inputs(2, 40)
    close(m(x)[0], full(x)[0])


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[23], [9, 14], [1] * 23, [11, 1, 0, 1, 10]], ids=str)
@pytest.mark.parametrize(("name", "causal"), CAUSAL)
def test_streaming_and_padding(name, causal, sizes, monkeypatch):
    """However a text is cut and padded, real tokens get what they have alone, and so do those that follow."""
    monkeypatch.setattr(patterns, "BLOCK", 8)
    m, _ = built(name, rope_theta=100.0)
    mask = torch.ones(4, 23, dtype=torch.bool)
    mask[0, :6] = mask[1, 15:] = mask[2, [1, 2, 7, 13, 14, 15, 20]] = False
    x, more = inputs(4, 23), inputs(4, 7)
    for given in (None, mask):
        state, outputs, start = None, [], 0
        for size in sizes:
            part = slice(start, start + size)
            y, state = m(x[:, part], state, None if given is None else given[:, part])
            outputs.append(y)
            start += size
        after, _ = m(more, state)
        for row in range(4):
            real = x[row] if given is None else x[row, given[row]]
            alone, _ = m(torch.cat((real, more[row]))[None])
            got = torch.cat(outputs, 1)[row]
            close(torch.cat((got if given is None else got[given[row]], after[row])), alone[0])


@torch.no_grad()
@pytest.mark.parametrize("name", ["sinks", "strided", "fixed", "block", "dilated"])
def test_a_row_of_padding_and_whole_texts_with_padding(name):
    m, seen = built(name, causal=False)
    x, mask = inputs(2, 12), torch.ones(2, 12, dtype=torch.bool)
    mask[0, [0, 4, 11]], mask[1] = False, False
    y, state = m(x, mask=mask)
    assert state is None
    assert y.isfinite().all()
    close(y[0, mask[0]], by_pairs(m, seen, x[0, mask[0]]))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "slots"), [("window", 3), ("sinks", 4), ("block", 4), ("block-sinks", 14), ("shifted", 8), ("dilated", 11)]
)
def test_the_state_stops_growing(name, slots):
    """It holds what later tokens see, and at most a period more: two where first tokens keep their distance."""
    m, _ = built(name)
    most = max(m(inputs(1, tokens))[1]["k"].shape[2] for tokens in range(1, 60))
    assert most <= slots
    assert m.state_bytes(5000) <= 2 * 2 * slots * 4 * 8


@torch.no_grad()
def test_first_tokens_stay_and_the_newest(monkeypatch):
    m, _ = built("sinks")
    x = inputs(1, 30)
    _, state = m(x)
    k = m.k(x).view(1, 30, 2, 4).transpose(1, 2)
    close(state["k"], k[:, :, [0, 1, 28, 29]])


@pytest.mark.parametrize("causal", [True, False])
def test_two_hops_of_strided_and_fixed_reach_every_token(causal):
    """Through a neighbour, or the end of a block: what the paper asks of a factorised pattern."""
    place = torch.arange(36)
    for pattern in (Pattern("strided", 6, causal), Pattern("fixed", 6, causal, columns=1)):
        seen = pattern.sees(place[:, None], place).double()
        assert not (seen > 0).all()
        reached = (seen @ seen) > 0
        assert torch.equal(reached, torch.ones_like(reached).tril() if causal else torch.ones_like(reached))


@pytest.mark.parametrize("name", ["strided", "fixed"])
def test_pairs_grow_with_the_power_one_and_a_half(name):
    def pairs(tokens):
        place = torch.arange(tokens)
        return int(Pattern(name, math.isqrt(tokens)).sees(place[:, None], place).sum())

    exponent = math.log(pairs(4096) / pairs(256)) / math.log(16)
    assert 1.4 < exponent < 1.6


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"size": 64}, 0.3),
        ({"size": 64, "first": 4}, 0.3),
        ({"pattern": "block", "size": 128}, 0.3),
        ({"pattern": "shifted", "size": 128}, 0.3),
        ({"pattern": "dilated", "size": 16, "dilation": 8}, 0.3),
        ({"pattern": "strided", "size": 32}, 0.4),
        ({"pattern": "fixed", "size": 32}, 0.4),
    ],
    ids=str,
)
def test_what_is_not_seen_is_not_computed(settings, share):
    """Counted where attention alone counts: the square of all pairs less the maps around it."""
    m, full = PatternAttention(8, 1, **settings), SoftmaxAttention(8, 1)
    maps = 2 * 1024 * 4 * 8 * 8
    assert m.cost(1, 1024).flops - maps < share * (full.cost(1, 1024).flops - maps)


@torch.no_grad()
def test_tokens_that_were_tried_are_taken_back_while_nothing_was_dropped():
    m, _ = built("strided")
    x = inputs(1, 9)
    _, state = m(torch.cat((x[:, :6], inputs(1, 3)), 1))
    close(m(x[:, 6:], m.without_last(m.settled(state), 9, 3))[0], m(x)[0][:, 6:])
    m, _ = built("sinks")
    assert m.without_last(m(x)[1], 9, 1) is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pattern": "windw"}, "'window'"),
        ({"size": 0}, "size must be a positive integer"),
        ({"first": -1}, "first must be a number of tokens"),
        ({"pattern": "strided", "first": 2}, "first means nothing"),
        ({"pattern": "dilated", "relative_bias": True}, "relative_bias means nothing"),
        ({"dilation": 2}, "dilation means nothing"),
        ({"columns": 2}, "columns means nothing"),
        ({"pattern": "fixed", "size": 4, "columns": 5}, "more than size=4"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        PatternAttention(16, 4, **settings)
