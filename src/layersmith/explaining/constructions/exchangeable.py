"""Attention that is exactly Bayesian, and what positions do to it: it is so on average over orders, no longer in each.

Of bits drawn with an unknown chance, which is Beta(a, b) distributed, the chance that the next is a one after k of n is
(a + k) / (a + b + n). One causal head over BOS and the bits gives just that: all scores are alike but that of BOS,
which is ln(a + b), and BOS has the value a / (a + b). Such a prediction does not depend on the order of the bits, and
it is a martingale: on average over the next bit, as it is itself predicted, the next prediction is this one.

With positions in the scores, s_ti = q(t) . k(i), both break; means over m orders of the same bits differ 1 / sqrt(m) as
much as single orders. With positions in the keys alone predictions depend on the order and are a martingale still: so
is every weighted mean of the past, as long as new tokens do not change the ratios of its weights.

Paper: "LLMs are Bayesian, in Expectation, not in Realization", arXiv 2507.11768 (martingales and positions, averaging
over orders with its 1 / sqrt(m), from its abstract; the head is ours, and so is what is said of keys alone).
Differs from the paper: positions are drawn, and the prior is Beta(1, 1) where they come in; no model is trained; its
bounds in n and chains of thought are not here.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import column, draw, largest
from layersmith.explaining.constructions.shared.wiring import Block, Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

PLACES, ORDERS, MEANS = 4, 16, 400
#: Of the entries of a position.
SIZE = 0.7
AT = Stream(bos=1, bit=1, one=1, place=PLACES, out=1)


class Predictor(nn.Module):
    """bits (B, n) of 0 and 1 -> (B, n + 1): the chance of a one after the first 0, 1, ..., n of them.

    asks, is_found   whether positions enter queries, and keys; `asks` without `is_found` changes nothing
    """

    def __init__(self, a: float, b: float, places: Tensor, asks: bool, is_found: bool):
        super().__init__()
        self.places = nn.Parameter(places)
        self.head = SoftmaxAttention(AT.width, 1, head_dim=1 + PLACES, scale=1.0)
        prior, value, where = slice(0, 1), slice(0, 1), slice(1, 1 + PLACES)
        sees = torch.zeros(PLACES, 1, dtype=torch.float64)
        sees[0] = 1.0
        looks: Block = (where, AT.place, 1.0) if asks else (where, AT.one, sees)
        wire(self.head.q, (prior, AT.one, 1.0), looks)
        wire(self.head.k, (prior, AT.bos, math.log(a + b)), (where, AT.place, float(is_found)))
        wire(self.head.v, (value, AT.bos, a / (a + b)), (value, AT.bit, 1.0))
        wire(self.head.o, (AT.out, value, 1.0))

    def forward(self, bits: Tensor) -> Tensor:
        x = torch.zeros(len(bits), bits.shape[1] + 1, AT.width, dtype=self.places.dtype)
        x[:, 0, AT.bos], x[:, 1:, AT.bit.start] = 1.0, bits.to(x.dtype)
        x[..., AT.one], x[..., AT.place] = 1.0, self.places[: x.shape[1]]
        return self.head(x)[0][..., AT.out.start]


class Exchangeable(Construction):
    name = "exchangeable"
    summary = "one attention head predicts bits exactly as Bayes would, in any order; positions make the order matter"
    papers = ("llms-bayesian-expectation-realization",)
    settings = {  # noqa: RUF012
        "bits": Setting(10, 6, 14, "the length of the strings, of which all are tried"),
        "a": Setting(1.0, 0.01, 1000.0, "how many ones the prior is worth"),
        "b": Setting(1.0, 0.01, 1000.0, "how many zeros the prior is worth"),
        "seed": Setting(0, 0, 2**31, "the seed of positions and orders"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return _predictor(settings, asks=False, is_found=False)

    def claims(self, settings: Settings) -> list[Claim]:
        n, a, b = settings["bits"], settings["a"], settings["b"]
        even = {**settings, "a": 1.0, "b": 1.0}
        both: Any = _predictor(even, asks=True, is_found=True)
        keys: Any = _predictor(even, asks=False, is_found=True)
        every = strings(n)
        return [
            Claim(
                "it is (a + k) / (a + b + n) after every prefix",
                f"largest difference, {len(every)} strings",
                lambda m: largest(m(every) - _posterior(every, a, b)),
                most=1e-12,
            ),
            Claim(
                "it is a martingale",
                "largest difference of the mean of the next prediction from this one, all prefixes",
                lambda m: _drift(m, n),
                most=1e-12,
            ),
            Claim(
                "the order of the bits does not matter",
                "largest difference of two orders",
                lambda m: _spread(m, n),
                most=1e-12,
            ),
            Claim(
                "positions in the keys alone: the order matters, and it is a martingale still",
                "largest difference of the mean of the next prediction from this one, over that of two orders",
                lambda m: _drift(keys, n) / _spread(keys, n),
                most=1e-9,
            ),
            Claim(
                f"means over {ORDERS} orders differ about 1 / sqrt({ORDERS}) = {ORDERS**-0.5:.3g} as much",
                f"standard deviation of {MEANS} means over that of single orders, positions in queries and keys",
                lambda m: _averaged(both, n, settings["seed"]),
                most=1.3 * ORDERS**-0.5,
            ),
            Claim(
                "with positions in queries and keys the order matters",
                "largest difference of two orders",
                lambda m: _spread(both, n),
                least=0.01,
                limit=True,
            ),
            Claim(
                "and it is no martingale",
                "largest difference of the mean of the next prediction from this one",
                lambda m: _drift(both, n),
                least=0.001,
                limit=True,
            ),
        ]


def _predictor(settings: Settings, asks: bool, is_found: bool) -> nn.Module:
    places = SIZE * draw(settings["seed"], settings["bits"] + 1, PLACES)
    return finished(Predictor(settings["a"], settings["b"], places, asks, is_found))


def strings(n: int) -> Tensor:
    """(2^n, n): all bit strings, as numbers count."""
    return torch.tensor(list(itertools.product((0, 1), repeat=n)))


def _posterior(bits: Tensor, a: float, b: float) -> Tensor:
    rows = []
    for string in bits.tolist():
        ones = itertools.accumulate(string, initial=0)
        rows.append(column((a + k) / (a + b + n) for n, k in enumerate(ones)))
    return torch.stack(rows)


def _drift(module: Any, n: int) -> float:
    """Prefixes of t bits are 2^t nodes of a tree, and their two children stand beside one another."""
    said = module(strings(n))
    nodes = [said[:: 2 ** (n - t), t] for t in range(n + 1)]
    means = [p * after[1::2] + (1 - p) * after[::2] for p, after in itertools.pairwise(nodes)]
    return largest(*(mean - p for mean, p in zip(means, nodes, strict=False)))


def _spread(module: Any, n: int) -> float:
    last, counts = module(strings(n))[:, -1], strings(n).sum(1)
    return max(float(last[counts == k].max() - last[counts == k].min()) for k in range(n + 1))


def _averaged(module: Any, n: int, seed: int) -> float:
    """For strings with as many ones as zeros, or one less."""
    every = strings(n)
    orders = module(every[every.sum(1) == n // 2])[:, -1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(orders), (MEANS, ORDERS), generator=generator, device="cpu")
    return float(orders[drawn].mean(1).std() / orders.std())
