"""One layer of causal linear attention predicts a linear sequence by one gradient step on its own past.

A sequence s_{t+1} = W s_t, tokens (s_t, s_{t-1}). Of the layer's weights two blocks are not zero, a and b with
rate = a b: the values are s_i, the keys s_{i-1}, the query s_t, and the prediction of s_{t+1} is

    rate (sum_{i<t} s_{i+1} s_i^T) s_t          one step from 0 on sum_i |W s_i - s_{i+1}|^2 / 2

Paper: Zheng et al. 2024, "On Mesa-Optimization in Autoregressively Trained Transformers: Emergence and Capability",
arXiv 2405.16845 (the step; token layout and its division by rho_t were not confirmed).
Differs from the paper: the step is not divided by the position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.mesa_regression import NextVector, rotation, wire_next_vector
from layersmith.explaining.constructions.shared.regression import dot, largest
from layersmith.explaining.constructions.shared.wiring import finished, theory_attention


class NextStep(Construction):
    name = "next_step"
    summary = "causal linear attention predicts the next vector of a sequence by one gradient step on its past"
    papers = ("mesa-optimization-autoregressively-trained-transformers",)
    settings = {  # noqa: RUF012
        "d": Setting(6, 2, 64, "the size of a vector"),
        "tokens": Setting(40, 8, 4096, "the length of the sequence"),
        "rate": Setting(0.05, 1e-6, 100.0, "the learning rate"),
        "seed": Setting(0, 0, 2**31, "the seed of the sequence"),
    }

    def build(self, settings: Settings) -> nn.Module:
        d = settings["d"]
        layer = theory_attention(2 * d, 1, d, causal=True)
        wire_next_vector(layer, d, gain=settings["rate"])
        return finished(NextVector(layer))

    def claims(self, settings: Settings) -> list[Claim]:
        s = rotation(settings["seed"], settings["d"], settings["tokens"])
        return [
            Claim(
                "it is one gradient step on the past at every position",
                f"largest difference from plain loops, sequence of {settings['tokens']}, over the largest entry",
                lambda m: largest(m(s)[0] - _step(s[0], settings["rate"])) / largest(_step(s[0], settings["rate"])),
                most=1e-12,
            ),
            Claim(
                "one step does not find the law of the sequence: no rate is right for every vector",
                "smallest mean error of the last predictions over their size, best rate for this sequence",
                lambda m: _best_error(m, s),
                least=0.05,
                limit=True,
            ),
        ]


def _step(s: Tensor, rate: float) -> Tensor:
    vectors, d = s.tolist(), s.shape[1]
    cross = [[0.0] * d for _ in range(d)]
    predictions = []
    for t, now in enumerate(vectors):
        if t:
            cross = [[cross[i][j] + now[i] * vectors[t - 1][j] for j in range(d)] for i in range(d)]
        predictions.append([rate * dot(row, now) for row in cross])
    return torch.tensor(predictions, dtype=torch.float64)


def _best_error(module: nn.Module, s: Tensor) -> float:
    """Over the last quarter of the sequence, each prediction scaled by the one factor that suits them best."""
    last = slice(3 * s.shape[1] // 4, s.shape[1] - 1)
    said, true = module(s)[0, last], s[0, last.start + 1 : last.stop + 1]
    factor = (said * true).sum() / said.square().sum()
    return float((factor * said - true).norm() / true.norm())
