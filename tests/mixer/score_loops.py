"""Attention one head, one query and one key at a time, for mixers whose scores and weights are their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.contract import Mixer

D = 16


def part(name: str, **config) -> Mixer:
    """A part of the catalogue with two heads in float64, its parameters off their initial values."""
    torch.manual_seed(0)
    mixer = catalogue.build({"name": name, "d_model": D, "n_heads": 2, **config}).double().eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return mixer


def inputs(tokens: int = 7) -> Tensor:
    return torch.randn(2, tokens, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def scaled_dot(q: Tensor, k: Tensor) -> float:
    return float(q @ k) / math.sqrt(len(q))


def by_loops(
    m: Mixer,
    x: Tensor,
    row: Callable[[list[float], int, Sequence[int], int], list[float]],
    score: Callable[[Tensor, Tensor], float] = scaled_dot,
) -> Tensor:
    """W_o concat_h sum_s w_ts v_s for x (B, T, D), without RoPE and query-key norm.

    row(scores, t, seen, head) gives the weights of token t at the tokens it sees, from its scores with them.
    """
    size = m.head_dim
    heads = m.q.out_features // size
    group = heads // m.n_kv_heads
    rows = []
    for text in x:
        q, k, v = m.q(text), m.k(text), m.v(text)
        out = torch.zeros_like(q)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            shared = slice(head // group * size, (head // group + 1) * size)
            for t in range(len(text)):
                seen = range(t + 1 if m.causal else len(text))
                weights = row([score(q[t, own], k[s, shared]) for s in seen], t, seen, head)
                for s, weight in zip(seen, weights, strict=True):
                    out[t, own] += weight * v[s, shared]
        rows.append(m.o(out))
    return torch.stack(rows)


def softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    exponentials = [math.exp(s - top) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def close(a: Tensor, b: Tensor, atol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)
