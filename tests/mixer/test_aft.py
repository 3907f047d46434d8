"""The attention-free transformer against a softmax for every feature in float64, and what its kinds have in common."""

import math

import pytest
import torch

from layersmith.mixer.aft import AFT
from layersmith.mixer.shared.running import running_sums


def bias(m: AFT, t: int, s: int, feature: int) -> float:
    if m.kind == "simple" or (m.kind != "full" and abs(t - s) >= m.window):
        return 0.0
    if m.kind == "conv":
        head = feature // (m.q.out_features // m.n_heads)
        return float(m.kernel[head, t - s + (0 if m.causal else m.window - 1)])
    return float(m.reader[t] @ m.read[s])


def by_loops(m: AFT, x: torch.Tensor) -> torch.Tensor:
    """A softmax over the tokens for every token and feature of one sequence x (T, D)."""
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for t in range(len(x)):
        for i in range(q.shape[1]):
            seen = range(t + 1 if m.causal else len(x))
            weights = [math.exp(float(k[s, i]) + bias(m, t, s, i)) for s in seen]
            mean = sum(w * float(v[s, i]) for s, w in zip(seen, weights, strict=True)) / sum(weights)
            out[t, i] = mean / (1 + math.exp(-float(q[t, i])))
    return m.o(out)


@torch.no_grad()
def mixer(kind, causal=True, **settings):
    torch.manual_seed(0)
    m = AFT(8, causal, kind, max_tokens=12, rank=3, window=4, n_heads=2, **settings).double()
    for parameter in m.parameters():
        parameter.mul_(3)
    return m


@pytest.mark.oracle("aft")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["simple", "full", "local", "conv"])
def test_equals_a_softmax_for_every_feature(kind, causal):
    m = mixer(kind, causal)
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("aft")
@torch.no_grad()
def test_a_window_that_covers_everything_is_full():
    full, local = mixer("full"), mixer("local")
    local.load_state_dict(full.state_dict())
    local.window = 12
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(local(x)[0], full(x)[0], atol=1e-13, rtol=0)


@pytest.mark.oracle("aft")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_without_biases_all_kinds_are_simple(causal):
    simple, x = mixer("simple", causal), torch.randn(1, 12, 8, dtype=torch.float64)
    for kind in ("full", "local", "conv"):
        m = mixer(kind, causal)
        m.load_state_dict(simple.state_dict(), strict=False)
        (m.kernel if kind == "conv" else m.reader).zero_()
        torch.testing.assert_close(m(x)[0], simple(x)[0], atol=1e-13, rtol=0)


def test_running_sums_of_huge_and_tiny_exponents_in_float32():
    logits = torch.tensor([-300.0, -310.0, -torch.inf, 500.0, 499.0, -1000.0])[None, :, None]
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])[None, :, None]
    _, a, z = running_sums(logits, values)
    small, large = math.exp(-10), math.exp(-1)
    want = [1, (1 + 2 * small) / (1 + small), (1 + 2 * small) / (1 + small), 4, *[(4 + 5 * large) / (1 + large)] * 2]
    torch.testing.assert_close((a / z)[0, :, 0], torch.tensor(want))


@pytest.mark.oracle("aft")
def test_running_sums_fade_and_carry_gradients():
    torch.manual_seed(0)
    logits, values = torch.randn(2, 2, 9, 3, dtype=torch.float64).requires_grad_()
    decay = torch.rand(3, dtype=torch.float64, requires_grad=True)
    rows = []
    for t in range(9):
        age = torch.arange(t, -1, -1)[:, None]
        weights = (logits[:, : t + 1] - age * decay).softmax(1)
        rows.append((weights * values[:, : t + 1]).sum(1))
    _, a, z = running_sums(logits, values, decay)
    ours, want = a / z, torch.stack(rows, 1)
    torch.testing.assert_close(ours, want, atol=1e-13, rtol=0)
    weights = torch.randn_like(want)
    inputs = (logits, values, decay)
    grads = [torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, want)]
    for got, right in zip(*grads, strict=True):
        torch.testing.assert_close(got, right, atol=1e-12, rtol=0)


def test_longer_texts_are_refused_and_padding_is_no_text():
    m = mixer("full")
    with pytest.raises(ValueError, match="a text of 13 tokens, and biases for 12 places"):
        m(torch.zeros(1, 13, 8, dtype=torch.float64))
    mask = torch.ones(1, 13, dtype=torch.bool)
    mask[0, 4] = False
    _, state = m(torch.zeros(1, 13, 8, dtype=torch.float64), None, mask)
    with pytest.raises(ValueError, match="a text of 13 tokens"):
        m(torch.zeros(1, 1, 8, dtype=torch.float64), state)


def test_the_state_of_the_simple_kind_does_not_grow():
    assert AFT(8).state_bytes(10) == AFT(8).state_bytes(1000) == 3 * 8 * 4
    assert AFT(8, kind="conv").state_bytes(10) == 10 * (2 * 8 * 4 + 8)


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'simple'"):
        AFT(8, kind="smple")
    with pytest.raises(ValueError, match="not a multiple of n_heads=3"):
        AFT(8, n_heads=3)
