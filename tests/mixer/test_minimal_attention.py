"""Minimal attention by loops, and made from the matrices of softmax attention it is that attention."""

import math

import pytest
import torch

from layersmith.mixer.minimal_attention import MinimalAttention
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, close, inputs, part, softmax


@torch.no_grad()
@pytest.mark.oracle("minimal_attention")
@pytest.mark.parametrize(
    "config", [{}, {"symmetric": True, "causal": False}, {"values": False}, {"symmetric": True, "scale": 0.1}]
)
def test_equals_loops(config):
    m, x = part("minimal_attention", **config), inputs()
    similarity, scale = m.similarity(), config.get("scale", 1 / math.sqrt(D))
    expected = torch.zeros_like(x)
    for b, text in enumerate(x):
        for head in range(2):
            out = m.o.weight[:, head * D : (head + 1) * D] if config.get("values", True) else torch.eye(D).double() / 2
            for i in range(len(text)):
                seen = range(i + 1 if m.causal else len(text))
                weights = softmax([scale * float(text[i] @ similarity[head] @ text[j]) for j in seen])
                for j, weight in zip(seen, weights, strict=True):
                    expected[b, i] += weight * (out @ text[j])
    close(m(x)[0], expected)


@torch.no_grad()
@pytest.mark.oracle("minimal_attention")
@pytest.mark.parametrize("causal", [True, False])
def test_two_matrices_of_softmax_attention_become_one(causal):
    plain = SoftmaxAttention(D, 2, causal=causal).double()
    m = MinimalAttention(D, 2, causal=causal, scale=8**-0.5).double()
    heads = (slice(0, 8), slice(8, 16))
    m.q.weight.copy_(torch.cat([plain.k.weight[h].T @ plain.q.weight[h] for h in heads]))
    m.o.weight.copy_(torch.cat([plain.o.weight[:, h] @ plain.v.weight[h] for h in heads], 1))
    close(m.similarity()[1], plain.q.weight[heads[1]].T @ plain.k.weight[heads[1]])
    x = inputs()
    close(m(x)[0], plain(x)[0])


def test_what_is_stored():
    assert MinimalAttention(D, 2).cost().params == 2 * 2 * D * D
    least = MinimalAttention(D, 1, symmetric=True, values=False)
    assert least.cost().params == D * (D + 1) // 2
    close(least.similarity(), least.similarity().mT)
    assert MinimalAttention(D, 2).state_bytes(10) == SoftmaxAttention(D, 2).state_bytes(10) // 2
