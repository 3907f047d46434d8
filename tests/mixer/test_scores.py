"""What mixers with scores of their own share: padding is invisible, a state continues a text, and says what it can."""

import pytest
import torch

from layersmith.mixer.shared.scores import by_group, sight
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, close, part

SHARED_KEYS = {"n_kv_heads": 1, "rope_theta": 100.0}
MIXERS = {
    "power_softmax": {**SHARED_KEYS, "qk_norm": True},
    "relu_attention": SHARED_KEYS,
    "spark_attention": {"k": 3, "rope_theta": 100.0},
    "spark_attention in parts": {"k": 3, "r": 4, "rope_theta": 100.0, "rope_interleaved": True},
    "neural_attention": {"n_kv_heads": 1, "chunk": 2},
    "urpe": {"n_kv_heads": 1, "max_distance": 3},
    "urpe both ways": {"causal": False, "max_distance": 3},
    "gaussian_mask": {"n_kv_heads": 1},
    "gaussian_mask on a grid": {"causal": False, "grid": 3},
    "gaussian_attention": SHARED_KEYS,
    "lipschitz_attention": {},
    "kv_attention": {"d_position": 4, "rope_theta": 100.0},
    "coca_attention": SHARED_KEYS,
    "momentum_attention": SHARED_KEYS,
    "momentum_attention after RoPE": {**SHARED_KEYS, "after_rope": True},
    "momentum_attention both ways": {"causal": False},
    "minimal_attention": {},
    "minimal_attention at its least": {"symmetric": True, "values": False},
    "doubly_stochastic": SHARED_KEYS,
    "doubly_stochastic by qr": {"method": "qr"},
    "kan_attention": {"n_tokens": 20, "n_kv_heads": 1},
    "kan_attention on the simplex": {"n_tokens": 20, "simplex": True},
    "folding_attention": SHARED_KEYS,
}
MASK = torch.tensor(
    [
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],  # left
        [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],  # right
        [1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1],  # between, as when padded chunks follow each other
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
).bool()


def drawn(batch, tokens):
    return torch.randn(batch, tokens, D, dtype=torch.float64)


def stream(mixer, x, sizes, mask):
    """Outputs of x fed in chunks of these sizes, and the last state."""
    outputs, state = [], None
    for chunk, real in zip(x.split(sizes, dim=1), mask.split(sizes, dim=1), strict=True):
        y, state = mixer(chunk, state, real)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@torch.no_grad()
@pytest.mark.parametrize("name", MIXERS)
def test_padding_is_invisible_and_a_state_goes_on(name):
    mixer = part(name.split()[0], **MIXERS[name])
    x, more = drawn(5, 12), drawn(5, 2)
    y, state = stream(mixer, x, [5, 4, 1, 1, 1] if mixer.streams else [12], MASK)
    assert y.isfinite().all()
    for row in range(4):
        close(y[row, MASK[row]], mixer(x[row : row + 1, MASK[row]])[0][0], 1e-10)
    if not mixer.streams:
        with pytest.raises(ValueError, match="cannot continue from a state"):
            mixer(x, {})
        return
    continued, _ = mixer(more, state)
    for row in range(5):
        close(continued[row], mixer(torch.cat((x[row, MASK[row]], more[row]))[None])[0][0, -2:], 1e-10)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MIXERS if part(name.split()[0], **MIXERS[name]).streams])
def test_tokens_that_were_tried_are_taken_back_or_it_is_said_that_they_cannot_be(name):
    mixer = part(name.split()[0], **MIXERS[name])
    x, mask = drawn(5, 12), MASK | (torch.arange(12) == 11)
    _, tried = stream(mixer, torch.cat((x[:, :6], drawn(5, 3)), 1), [6, 3], mask[:, :9])
    back = mixer.without_last(mixer.settled(tried), 9, 3)
    cannot = ("momentum", "folding")
    assert (back is None) == name.startswith(cannot)
    if back is not None:
        close(mixer(x[:, 6:], back, mask[:, 6:])[0][:, -1], mixer(x, None, mask)[0][:, -1], 1e-10)


@torch.no_grad()
def test_places_and_counts_are_of_real_tokens():
    real = torch.tensor([[True, False, True, True], [False, False, True, True]])
    q, k = torch.zeros(2, 1, 2, 4), torch.zeros(2, 1, 4, 4)  # the last two of four
    seen = sight(q, k, real, True)
    assert seen.place.tolist() == [[0, 1, 1, 2], [0, 0, 0, 1]]
    assert seen.seen[:, 0, :, 0].tolist() == [[2, 3], [1, 2]]
    assert seen.distance[0].tolist() == [[1, 0, 0, -1], [2, 1, 1, 0]]
    assert sight(q, k, None, True).visible[0, 0].tolist() == [[True, True, True, False], [True] * 4]
    assert sight(q, q, None, False).visible.all()
    assert sight(q, q, None, True).seen.flatten().tolist() == [1, 2]


@torch.no_grad()
def test_groups_share_keys_in_the_order_of_attention():
    a, b = torch.randn(2, 6, 3, 4), torch.randn(2, 2, 4, 5)
    torch.testing.assert_close(by_group(a, b), a @ b.repeat_interleave(3, dim=1))


@torch.no_grad()
@pytest.mark.parametrize("config", [{}, {**SHARED_KEYS, "qk_norm": True, "scale": 0.3}, {"causal": False}])
def test_one_distance_for_all_is_softmax_attention(config):
    """The core with the weights of softmax is softmax attention: scores, groups, scale and cache are those."""
    plain = SoftmaxAttention(D, 2, **config).double()
    mixer = part("urpe", relative_bias=False, **config)
    mixer.load_state_dict(plain.state_dict() | {"factor": torch.ones_like(mixer.factor)})
    x = drawn(2, 9)
    close(mixer(x)[0], plain(x)[0])
