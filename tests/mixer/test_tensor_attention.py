"""Tensor attention against triple loops in float64, its limit softmax attention, and a series that gets longer."""

import math

import pytest
import torch

from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.mixer.tensor_attention import TensorAttention


def series(score: float, degree: int | None) -> float:
    return math.exp(score) if degree is None else sum(score**k / math.factorial(k) for k in range(degree + 1))


def tensor_attention_by_loops(m: TensorAttention, x: torch.Tensor) -> torch.Tensor:
    """One sequence x (T, D), over pairs of tokens in three loops."""
    d, kv, heads = m.head_dim, m.n_kv_heads, m.q.out_features // m.head_dim
    q, k, v = m.q(x).tolist(), m.k(x).tolist(), m.v(x).tolist()
    window = m.window or len(x)
    out = torch.zeros(len(x), heads * d, dtype=x.dtype)
    for h in range(heads):
        one = h // (heads // kv) * d
        two = kv * d + one
        for t in range(len(x)):
            total, size = [0.0] * d, 0.0
            readable = [s for s in range(len(x)) if abs(t - s) < window and (s <= t or not m.causal)]
            for i in readable:
                for j in readable:
                    score = m.scale * sum(q[t][h * d + c] * k[i][one + c] * k[j][two + c] for c in range(d))
                    weight = series(score, m.degree)
                    size += weight
                    for c in range(d):
                        total[c] += weight * v[i][one + c] * v[j][two + c]
            out[t, h * d : (h + 1) * d] = torch.tensor([e / size for e in total], dtype=x.dtype)
    return m.o(out)


@pytest.mark.oracle("tensor_attention")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("how", [{}, {"window": 3}, {"degree": 2}, {"degree": 4}], ids=str)
def test_equals_loops(how, causal):
    torch.manual_seed(0)
    m = TensorAttention(8, 4, n_kv_heads=2, causal=causal, bias=True, chunk=3, scale=0.9, **how).double()
    for parameter in m.parameters():
        parameter.mul_(2)  # scores of about one: far from where a series and exp are the same
    x = torch.randn(2, 8, 8, dtype=torch.float64)
    want = torch.stack([tensor_attention_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("tensor_attention")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_ones_for_the_second_keys_and_values_are_softmax_attention(causal):
    torch.manual_seed(0)
    m = TensorAttention(12, 3, causal=causal, bias=True).double()
    plain = SoftmaxAttention(12, 3, causal=causal, bias=True, scale=1 / 4).double()
    for pair, one in ((m.k, plain.k), (m.v, plain.v)):
        pair.weight.zero_()[:12] = one.weight
        pair.bias.fill_(1.0)[:12] = one.bias
    for name in ("q", "o"):
        getattr(m, name).load_state_dict(getattr(plain, name).state_dict())
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], plain(x)[0], atol=1e-12, rtol=0)


@torch.no_grad()
def test_the_series_comes_nearer_with_its_degree():
    torch.manual_seed(0)
    exact = TensorAttention(8, 2).double()
    x, errors = torch.randn(1, 12, 8, dtype=torch.float64), []
    for degree in (2, 4, 6):
        m = TensorAttention(8, 2, degree=degree).double()
        m.load_state_dict(exact.state_dict(), strict=False)
        errors.append((m(x)[0] - exact(x)[0]).abs().max().item())
    assert errors[0] > 10 * errors[1] > 100 * errors[2] > 0


@torch.no_grad()
@pytest.mark.parametrize("how", [{}, {"window": 4}, {"degree": 2}], ids=str)
def test_token_by_token_and_in_chunks(how):
    torch.manual_seed(0)
    m = TensorAttention(8, 2, chunk=4, **how).double()
    x = torch.randn(2, 13, 8, dtype=torch.float64)
    for sizes in ([1] * 13, [5, 1, 7]):
        state, parts = None, []
        for part in x.split(sizes, dim=1):
            y, state = m(part, state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), m(x)[0], atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("how", [{}, {"window": 3}, {"degree": 2}, {"causal": False}], ids=str)
def test_padding_anywhere_is_as_if_it_were_not_there(how):
    torch.manual_seed(0)
    m = TensorAttention(8, 2, chunk=4, **how).double()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, [0, 3, 4, 8]] = False
    mask[1] = False
    y = m(x, mask=mask)[0]
    torch.testing.assert_close(y[:1, mask[0]], m(x[:1, mask[0]])[0], atol=1e-12, rtol=0)
    assert torch.isfinite(y).all()


@torch.no_grad()
def test_one_head_finds_three_numbers_that_sum_to_zero():
    """Match3: is there a pair (i, j) with x_t + x_i + x_j = 0 modulo p? The cosine of a sum is a product of three."""
    torch.manual_seed(0)
    m, p = TensorAttention(2, 1, head_dim=4, causal=False, scale=1e4).double(), 23
    cosine, sine = [1.0, 0.0], [0.0, 1.0]
    m.q.weight.copy_(torch.tensor([cosine, cosine, sine, sine]) * torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]]))
    pairs = torch.tensor([cosine, sine, cosine, sine, cosine, sine, sine, cosine])
    m.k.weight.copy_(pairs)
    m.v.weight.copy_(pairs)
    m.o = torch.nn.Identity()
    numbers = torch.randint(p, (20, 8))
    angle = numbers.double() * 2 * math.pi / p
    x = torch.stack((angle.cos(), angle.sin()), -1)
    found = (m(x)[0] * m.q(x)).sum(-1) > (1 + math.cos(2 * math.pi / p)) / 2
    sums = numbers[:, :, None, None] + numbers[:, None, :, None] + numbers[:, None, None, :]
    want = (sums % p == 0).flatten(2).any(-1)
    assert torch.equal(found, want)
    assert 0.2 < want.double().mean() < 0.95


def test_memory_of_the_series_does_not_grow_with_the_text():
    m = TensorAttention(8, 2, degree=2)
    monomials = 1 + 4 + 10
    assert m.state_bytes(10) == m.state_bytes(100) == 2 * 2 * monomials * (4 + 1) * 4
    assert m.cost(tokens=64).flops == 2 * m.cost(tokens=32).flops


def test_bad_configs_are_refused():
    for wrong, message in (
        ({"degree": 3}, "even"),
        ({"degree": 2, "window": 3}, "window"),
        ({"window": 0}, "window"),
        ({"degree": 12, "n_heads": 1}, "monomials"),
    ):
        with pytest.raises(ValueError, match=message):
            TensorAttention(**{"d_model": 12, "n_heads": 3, **wrong})
