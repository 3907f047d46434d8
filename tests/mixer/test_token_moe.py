"""The mixtures of experts that mix tokens: against loops over tokens and slots, and as what they contain."""

import math

import pytest
import torch

from layersmith.mixer.expert_choice_moe import ExpertChoiceMoE
from layersmith.mixer.soft_moe import SoftMoE


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def soft(**config) -> SoftMoE:
    torch.manual_seed(1)
    return SoftMoE(**{"d_model": 6, "d_expert": 4, "n_experts": 3, "slots_per_expert": 2, **config}).double()


def choice(**config) -> ExpertChoiceMoE:
    torch.manual_seed(1)
    return ExpertChoiceMoE(**{"d_model": 6, "d_expert": 4, "n_experts": 3, "factor": 1.0, **config}).double()


def dot(a, b):
    return sum(v * w for v, w in zip(a, b, strict=True))


def softmax(logits):
    total = sum(math.exp(v) for v in logits)
    return [math.exp(v) / total for v in logits]


def expert(m, e, v):
    parts = (m.experts.up, m.experts.up_bias, m.experts.down, m.experts.down_bias)
    up, up_bias, down, down_bias = (p[e].tolist() for p in parts)
    hidden = [b + dot(row, v) for row, b in zip(up, up_bias, strict=True)]
    hidden = [h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden]
    return [b + dot(row, hidden) for row, b in zip(down, down_bias, strict=True)]


@pytest.mark.oracle("soft_moe")
def test_soft_moe_by_loops(x):
    m = soft()
    with torch.no_grad():
        m.scale.fill_(3.0)
    columns = m.phi.T.tolist()
    for tokens, got in zip(x.tolist(), m(x)[0].tolist(), strict=True):
        logits = [[3 * dot(t, c) / math.sqrt(dot(t, t) * dot(c, c)) for c in columns] for t in tokens]
        answers = []
        for s in range(6):
            share = softmax([row[s] for row in logits])
            slot = [dot(share, [t[d] for t in tokens]) for d in range(6)]
            answers.append(expert(m, s // 2, slot))
        for row, y in zip(logits, got, strict=True):
            share = softmax(row)
            assert y == pytest.approx([dot(share, [a[d] for a in answers]) for d in range(6)], rel=1e-9)


@pytest.mark.oracle("soft_moe")
def test_one_slot_is_the_expert_of_the_mean_when_no_token_stands_out(x):
    m = soft(n_experts=1, slots_per_expert=1)
    with torch.no_grad():
        m.scale.zero_()
    mean = m.experts(x.mean(1)[:, None, None])[:, 0]
    torch.testing.assert_close(m(x)[0], mean.expand_as(x))


@pytest.mark.oracle("expert_choice_moe")
@pytest.mark.parametrize("factor", [0.4, 1.0, 2.0, 3.0])
def test_expert_choice_by_loops(x, factor):
    m, taken = choice(factor=factor), 0
    for tokens, got in zip(x.tolist(), m(x)[0].tolist(), strict=True):
        scores = [softmax([dot(row, t) for row in m.router.tolist()]) for t in tokens]
        expected = [[0.0] * 6 for _ in tokens]
        for e in range(3):
            for t in sorted(range(7), key=lambda t: -scores[t][e])[: math.ceil(factor * 7 / 3)]:
                taken += 1
                expected[t] = [a + scores[t][e] * b for a, b in zip(expected[t], expert(m, e, tokens[t]), strict=True)]
        for y, wanted in zip(got, expected, strict=True):
            assert y == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert taken == 2 * 3 * math.ceil(factor * 7 / 3)


@pytest.mark.oracle("expert_choice_moe")
def test_experts_that_take_all_tokens_are_the_soft_mixture_of_dense_feed_forwards(x):
    m = choice(factor=3.0)
    share = (x @ m.router.T).softmax(-1)
    every = m.experts(x[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(m(x)[0], torch.einsum("bte,betd->btd", share, every))


@pytest.mark.parametrize("build", [soft, choice])
def test_they_read_later_tokens_and_say_so(x, build):
    m, moved = build(), 0.0
    for direction in torch.eye(6, dtype=torch.double):
        changed = x.clone()
        changed[:, -1] = 50 * direction
        moved = max(moved, (m(changed)[0] - m(x)[0])[:, :-1].abs().max().item())
    assert moved > 1e-3
    assert not m.causal
    assert not m.streams
    with pytest.raises(ValueError, match="state"):
        m(x, state={"seen": torch.zeros(2, 1)})


@pytest.mark.parametrize("build", [soft, choice])
def test_a_sequence_of_padding_alone_stays_finite(x, build):
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1] = False
    assert torch.isfinite(build()(x, mask=mask)[0]).all()


@pytest.mark.parametrize("factor", [0.0, 3.1, float("nan")])
def test_a_bad_factor_is_refused(factor):
    with pytest.raises(ValueError, match=r"factor must lie in \(0, n_experts=3\]"):
        choice(factor=factor)
