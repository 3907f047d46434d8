"""The mesa layer predicts a sequence by ridge regression on its own past, exactly and at every position.

A sequence s_{t+1} = W s_t; tokens (s_t, s_{t-1}). One head reads keys s_{t-1}, values s_t and the query s_t:

    prediction of s_{t+1} = W_t s_t,    W_t = argmin sum_{i<t} |W s_i - s_{i+1}|^2 + lam |W|^2

Paper: von Oswald et al. 2023, "Uncovering mesa-optimization algorithms in Transformers", arXiv 2309.05858 (the layer is
the catalogue's `mesa`; the recursion it is compared with is the paper's rank-one update of the inverse).
Differs from the paper: the copy layer that brings s_{t-1} to token t is part of how tokens are made.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer
from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import dot, draw, largest
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.mesa import Mesa


class NextVector(nn.Module):
    """s (B, T, d) -> the prediction of the vector after each, (B, T, d), by one mixer on tokens (s_t, s_{t-1})."""

    def __init__(self, mixer: Mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, s: Tensor) -> Tensor:
        before = F.pad(s, (0, 0, 1, 0))[:, :-1]
        return self.mixer(torch.cat((s, before), -1))[0][..., : s.shape[-1]]


def wire_next_vector(mixer: Mesa | LinearAttention, d: int, gain: float = 1.0) -> None:
    """Keys s_{t-1}, values and queries s_t; the head's output, times gain, replaces the first half of the token."""
    at, head = Stream(now=d, before=d), slice(0, d)
    wire(mixer.q, (head, at.now, 1.0))
    wire(mixer.k, (head, at.before, 1.0))
    wire(mixer.v, (head, at.now, 1.0))
    wire(mixer.o, (at.now, head, gain))


def rotation(seed: int, d: int, tokens: int) -> Tensor:
    """A sequence (1, T, d) of s_{t+1} = W s_t with a random orthogonal W."""
    w, _ = torch.linalg.qr(draw(seed, d, d))
    vectors = [draw(seed + 1, d)]
    for _ in range(tokens - 1):
        vectors.append(w @ vectors[-1])
    return torch.stack(vectors)[None]


class MesaRegression(Construction):
    name = "mesa_regression"
    summary = "one mesa layer predicts a linear sequence by ridge regression on its past at every position"
    papers = ("uncovering-mesa-optimization-algorithms-transformers",)
    settings = {  # noqa: RUF012
        "d": Setting(6, 2, 64, "the size of a vector"),
        "tokens": Setting(40, 8, 4096, "the length of the sequence"),
        "lam": Setting(0.001, 1e-9, 1e6, "the weight of the ridge penalty"),
        "seed": Setting(0, 0, 2**31, "the seed of the sequence"),
    }

    def build(self, settings: Settings) -> nn.Module:
        d = settings["d"]
        layer = Mesa(2 * d, 1, head_dim=d, lam=settings["lam"]).double()
        wire_next_vector(layer, d)
        return finished(NextVector(layer))

    def claims(self, settings: Settings) -> list[Claim]:
        d, tokens = settings["d"], settings["tokens"]
        s = rotation(settings["seed"], d, tokens)
        noisy = s + 0.3 * draw(settings["seed"] + 2, 1, tokens, d)
        known = min(4 * d, tokens - 2)
        return [
            Claim(
                "it is ridge regression at every position",
                f"largest difference from the rank-one recursion in plain loops, noisy sequence of {tokens}",
                lambda m: largest(m(noisy)[0] - recursive(noisy[0], settings["lam"])),
                most=1e-9,
            ),
            Claim(
                f"it knows a noise-free sequence after {known} vectors",
                "error of the next vector over its size",
                lambda m: _error(m, s, slice(known, tokens - 1)),
                most=settings["lam"],
            ),
            Claim(
                "before d vectors the past does not determine the next",
                f"error of the next vector over its size, after {max(d // 2, 1)} vectors",
                lambda m: _error(m, s, slice(max(d // 2, 1) - 1, max(d // 2, 1))),
                least=0.02,
                limit=True,
            ),
        ]


def recursive(s: Tensor, lam: float) -> Tensor:
    """The paper's recursion in plain loops: R = (sum k k^T + lam I)^{-1} by rank-one updates, and (sum v k^T) R q."""
    vectors, d = s.tolist(), s.shape[1]
    inverse = [[1 / lam if i == j else 0.0 for j in range(d)] for i in range(d)]
    cross = [[0.0] * d for _ in range(d)]
    predictions = []
    for t, q in enumerate(vectors):
        k = vectors[t - 1] if t else [0.0] * d
        rk = [dot(row, k) for row in inverse]
        scale = 1 + dot(k, rk)
        inverse = [[inverse[i][j] - rk[i] * rk[j] / scale for j in range(d)] for i in range(d)]
        cross = [[cross[i][j] + q[i] * k[j] for j in range(d)] for i in range(d)]
        rq = [dot(row, q) for row in inverse]
        predictions.append([dot(row, rq) for row in cross])
    return torch.tensor(predictions, dtype=torch.float64)


def _error(module: nn.Module, s: Tensor, where: slice) -> float:
    """The largest relative error of predictions at these positions."""
    after = slice(where.start + 1, where.stop + 1)
    return float(((module(s)[0, where] - s[0, after]).norm(dim=-1) / s[0, after].norm(dim=-1)).max())
