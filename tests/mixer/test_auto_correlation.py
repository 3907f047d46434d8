"""Auto-correlation against loops over delays, on a periodic signal, and beside transformers'."""

import math

import pytest
import torch

from layersmith.mixer.auto_correlation import AutoCorrelation


def mixer(**config) -> AutoCorrelation:
    torch.manual_seed(0)
    return AutoCorrelation(**{"d_model": 8, "n_heads": 4, "n_kv_heads": 2, "factor": 1.5, **config}).double()


def by_loops(m, x):
    """One sequence (T, D)."""
    n, d, heads = len(x), m.head_dim, m.q.out_features // m.head_dim
    group = heads // m.n_kv_heads
    q, k, v = m.q(x).reshape(n, heads, d), m.k(x).reshape(n, -1, d), m.v(x).reshape(n, -1, d)
    similar = []
    for tau in range(n):
        total = 0.0
        for h in range(heads):
            total += sum(float(q[(t + tau) % n, h] @ k[t, h // group]) for t in range(n))
        similar.append(total / (heads * d))
    best = sorted(range(n), key=lambda tau: -similar[tau])[: max(1, int(m.factor * math.log(n)))]
    weights = torch.tensor([similar[tau] for tau in best], dtype=x.dtype).softmax(0)
    out = torch.zeros(n, heads, d, dtype=torch.float64)
    for t in range(n):
        for h in range(heads):
            out[t, h] = sum(w * v[(t + tau) % n, h // group] for w, tau in zip(weights, best, strict=True))
    return m.o(out.reshape(n, -1))


@pytest.mark.oracle("auto_correlation")
@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2, 9, 12])
def test_by_loops_with_and_without_padding(tokens):
    m, x = mixer(), torch.randn(2, tokens, 8, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-11, rtol=0)
    mask = torch.ones(3, tokens + 3, dtype=torch.bool)
    mask[:, [0, tokens // 2 + 1, tokens + 2]] = False
    mask[2] = False
    held = torch.full((3, tokens + 3, 8), 10.0, dtype=torch.float64)
    held[:2] = held[:2].masked_scatter(mask[:2, :, None], x)
    y = m(held, mask=mask)[0]
    assert y.isfinite().all()
    torch.testing.assert_close(y[:2][mask[:2]], want.flatten(0, 1), atol=1e-11, rtol=0)


@pytest.mark.oracle("auto_correlation")
@torch.no_grad()
def test_the_period_of_a_signal_is_its_best_delay():
    m = mixer(d_model=2, n_heads=1, n_kv_heads=1)
    m.q.weight.copy_(torch.eye(2))
    m.k.weight.copy_(torch.eye(2))
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).repeat(4, 1)[None]
    q, k, _ = m.project(x, None, None)
    similar = m._by_transform(q, k)[0]
    assert sorted(similar.topk(4).indices.tolist()) == [0, 6, 12, 18]
    assert similar[6].item() == pytest.approx(similar[0].item())


@pytest.mark.official("auto_correlation")
@torch.no_grad()
def test_equals_transformers():
    """One sequence at a time: with more, theirs hands the delays of one to another."""
    from transformers.models.autoformer.modeling_autoformer import AutoformerAttention

    torch.manual_seed(0)
    theirs = AutoformerAttention(8, 4, autocorrelation_factor=2).eval()
    m = AutoCorrelation(8, 4, factor=2, bias=True, out_bias=True)
    pairs = {"q": theirs.q_proj, "k": theirs.k_proj, "v": theirs.v_proj, "o": theirs.out_proj}
    m.load_state_dict({f"{k}.{n}": p for k, layer in pairs.items() for n, p in layer.state_dict().items()})
    x = torch.randn(1, 24, 8)
    torch.testing.assert_close(m(x)[0], theirs(x)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf")])
def test_a_factor_that_reads_nothing_is_refused(factor):
    with pytest.raises(ValueError, match="factor"):
        AutoCorrelation(8, 2, factor=factor)
