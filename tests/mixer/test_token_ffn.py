"""The feed-forward over all tokens against the flat feed-forward it is, in float64, and what it refuses."""

import pytest
import torch

from layersmith.mixer.token_ffn import TokenFFN


def made(causal=True):
    torch.manual_seed(0)
    m = TokenFFN(3, 7, length=6, causal=causal).double()
    with torch.no_grad():
        for parameter in m.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return m


def flat(m, x):
    """The plain feed-forward on the tokens of x (T, D) in one vector, filled up with zeros."""
    vector = torch.cat((x, x.new_zeros(m.length - len(x), 3))).flatten()
    hidden = (vector @ m.up.flatten(0, 1) + m.up_bias).relu()
    out = hidden @ m.down.movedim(0, 1).flatten(1) + m.down_bias.flatten()
    return out.unflatten(0, (m.length, 3))[: len(x)]


@pytest.mark.oracle("token_ffn")
@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 4, 6])
def test_equals_the_flat_feed_forward(tokens):
    m = made(causal=False)
    x = torch.randn(2, tokens, 3, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], torch.stack([flat(m, row) for row in x]), atol=1e-12, rtol=0)


@pytest.mark.oracle("token_ffn")
@torch.no_grad()
def test_causal_is_the_flat_one_with_the_future_masked_for_each_token():
    m = made()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    want = torch.stack([torch.stack([flat(m, row[: t + 1])[t] for t in range(6)]) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_longer_texts_are_refused_and_padding_does_not_count():
    m = made()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"a sequence of 9 tokens.*length=6"):
        m(x)
    _, state = m(x[:, :4])
    with pytest.raises(ValueError, match="a sequence of 7 tokens"):
        m(x[:, 4:7], state)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 1, 1], [1] * 6 + [0] * 3]).bool()
    y, _ = m(x, mask=mask)
    for row in range(2):
        torch.testing.assert_close(y[row, mask[row]], m(x[row : row + 1, mask[row]])[0][0], atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="a sequence of 7 tokens"):
        m(x, mask=torch.tensor([[1] * 7 + [0] * 2, [0] * 9]).bool())


@pytest.mark.oracle("token_ffn")
@torch.no_grad()
def test_a_fixed_average_is_within_its_reach():
    """Attention that always takes the mean of a window is a linear map of the tokens; pairs of units give it."""
    m = TokenFFN(1, 12, length=6, causal=False).double()
    for parameter in m.parameters():
        parameter.zero_()
    for t in range(6):
        seen = range(max(t - 2, 0), t + 1)
        for sign, unit in ((1.0, 2 * t), (-1.0, 2 * t + 1)):
            for s in seen:
                m.up[s, 0, unit] = sign / len(seen)
            m.down[t, unit, 0] = sign
    x = torch.randn(3, 6, 1, dtype=torch.float64)
    want = torch.stack([x[:, max(t - 2, 0) : t + 1].mean(1) for t in range(6)], 1)
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)
