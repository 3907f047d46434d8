"""A transformer that trains a deep ReLU network in its context: four sublayers for each of its layers are one step.

Every token holds a pair (x, y) and all weights W_1 .. W_N of the network W_N r(W_(N-1) ... r(W_1 x)). Bilinear
feed-forwards multiply what a token holds, ReLU feed-forwards bend it, and one attention that looks everywhere alike
takes the mean over the pairs:

    a_l = W_l h_(l-1),   h_l = r(a_l),   g_l = r(a_l / eps) - r(a_l / eps - 1)       N bilinear, N - 1 with ReLU
    e = W_N h_(N-1) - y,   e_(l-1) = (W_l^T e_l) * g_(l-1)                           2 (N - 1) bilinear
    S_l = e_l h_(l-1)^T,   W_l <- W_l - rate mean S_l                                1 bilinear, 1 attention
    all but x, y and W to 0                                                          1 with ReLU

which are 4 N sublayers a step. Queries come with y = 0 and are not looked at; after the last step the forward half is
run once more, and e is the prediction.

Paper: "Transformers are Deep Optimizers: Provable In-Context Learning for Deep Model Training", arXiv 2411.16549
((2N + 4) L layers for L steps, weights of the network in every token: from its abstract and from memory; the sublayers
are ours).
Differs from the paper: products are bilinear feed-forwards, exact, where it approximates them by sums of ReLUs, so that
only the derivative of the ReLU is approximate; weights are not projected to a ball; no version with softmax.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import draw, largest
from layersmith.explaining.constructions.shared.wiring import Residual, Stream, finished, theory_attention, wire
from layersmith.ffn.bilinear import Bilinear
from layersmith.ffn.mlp import MLP
from layersmith.mixer.linear_attention import LinearAttention

QUERIES = 5
#: One product: the two entries of the stream that are multiplied, the entry it is added to, and its factor.
Product = tuple[int, int, int, float]


class DeepDescent(nn.Module):
    """x (B, N, d), y (B, N), query (B, Q, d) -> predictions (B, Q) after so many steps from the weights `start`.

    sizes   widths of the network's layers, from d to 1
    eps     where the ReLU's derivative climbs from 0 to 1
    """

    def __init__(self, sizes: list[int], pairs: int, steps: int, rate: float, eps: float):
        super().__init__()
        self.sizes, depth = sizes, len(sizes) - 1
        shapes = list(itertools.pairwise(sizes))
        hidden = {f"{kind}{layer}": sizes[layer] for layer in range(1, depth) for kind in ("a", "h", "g", "t", "e")}
        slopes = {f"s{layer}": shapes[layer - 1][0] * shapes[layer - 1][1] for layer in range(1, depth + 1)}
        weights = {f"w{layer}": count for layer, count in enumerate(slopes.values(), start=1)}
        self.at = at = Stream(x=sizes[0], y=1, one=1, **weights, **hidden, **{f"e{depth}": 1}, **slopes)
        self.start = nn.Parameter(torch.zeros(sum(weights.values()), dtype=torch.float64))
        parts: list[nn.Module] = []
        for _ in range(steps):
            parts += [
                *_forward(at, sizes, eps),
                *_backward(at, sizes),
                _mean(at, sizes, rate / pairs),
                _clear(at, sizes),
            ]
        self.layers = Residual([*parts, *_forward(at, sizes, eps)])

    def forward(self, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
        return self.stream(x, y, query)[:, x.shape[1] :, getattr(self.at, f"e{len(self.sizes) - 1}").start]

    def weights(self, stream: Tensor) -> Tensor:
        """(B, N + Q, weights): those of every token."""
        return stream[..., self._weights()]

    def stream(self, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
        tokens = F.pad(torch.cat((x, query), 1), (0, self.at.width - x.shape[2]))
        tokens[:, : x.shape[1], self.at.y.start] = y
        tokens[..., self.at.one.start] = 1.0
        tokens[..., self._weights()] = self.start
        mask = torch.arange(tokens.shape[1]) < x.shape[1]
        return self.layers(tokens, mask=mask.expand(tokens.shape[:2]))

    def _weights(self) -> slice:
        return slice(self.at.w1.start, getattr(self.at, f"w{len(self.sizes) - 1}").stop)


def _places(piece: slice) -> list[int]:
    return list(range(piece.start, piece.stop))


def _of(at: Stream, kind: str, layer: int) -> list[int]:
    """Places of a piece of that layer; h_0 is x."""
    return _places(at.x if (kind, layer) == ("h", 0) else getattr(at, f"{kind}{layer}"))


def _matrix(at: Stream, kind: str, layer: int, sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Place, row and column of every entry of W_l or S_l."""
    for number, place in enumerate(_of(at, kind, layer)):
        yield place, *divmod(number, sizes[layer - 1])


def _forward(at: Stream, sizes: list[int], eps: float) -> list[nn.Module]:
    parts: list[nn.Module] = []
    depth = len(sizes) - 1
    for layer in range(1, depth + 1):
        into, before = _of(at, "a" if layer < depth else "e", layer), _of(at, "h", layer - 1)
        products = [(w, before[column], into[row], 1.0) for w, row, column in _matrix(at, "w", layer, sizes)]
        if layer < depth:
            parts += [_multiply(at, products), _bend(at, layer, eps)]
        else:
            parts.append(_multiply(at, [*products, (at.y.start, at.one.start, into[0], -1.0)]))
    return parts


def _backward(at: Stream, sizes: list[int]) -> list[nn.Module]:
    parts: list[nn.Module] = []
    depth = len(sizes) - 1
    for layer in range(depth, 1, -1):
        errors, into, gates = _of(at, "e", layer), _of(at, "t", layer - 1), _of(at, "g", layer - 1)
        back = [(w, errors[row], into[column], 1.0) for w, row, column in _matrix(at, "w", layer, sizes)]
        gated = [(t, g, e, 1.0) for t, g, e in zip(into, gates, _of(at, "e", layer - 1), strict=True)]
        parts += [_multiply(at, back), _multiply(at, gated)]
    slopes = [
        (_of(at, "e", layer)[row], _of(at, "h", layer - 1)[column], place, 1.0)
        for layer in range(1, depth + 1)
        for place, row, column in _matrix(at, "s", layer, sizes)
    ]
    return [*parts, _multiply(at, slopes)]


def _multiply(at: Stream, products: list[Product]) -> Bilinear:
    ffn = Bilinear(at.width, len(products))
    rows = [slice(n, n + 1) for n in range(len(products))]
    wire(ffn.gate, *((row, slice(one, one + 1), 1.0) for row, (one, _, _, _) in zip(rows, products, strict=True)))
    wire(ffn.up, *((row, slice(two, two + 1), 1.0) for row, (_, two, _, _) in zip(rows, products, strict=True)))
    wire(ffn.down, *((slice(to, to + 1), row, by) for row, (_, _, to, by) in zip(rows, products, strict=True)))
    return ffn


def _bend(at: Stream, layer: int, eps: float) -> MLP:
    """h = r(a) and g, the step that climbs from 0 to 1 between a = 0 and a = eps."""
    a, h, g = (getattr(at, f"{kind}{layer}") for kind in "ahg")
    n = a.stop - a.start
    ffn = MLP(at.width, 3 * n, act="relu")
    plain, lower, upper = slice(0, n), slice(n, 2 * n), slice(2 * n, 3 * n)
    wire(
        ffn.up, (plain, a, 1.0), (lower, a, 1 / eps), (upper, a, 1 / eps), bias=dict.fromkeys(range(2 * n, 3 * n), -1.0)
    )
    wire(ffn.down, (h, plain, 1.0), (g, lower, 1.0), (g, upper, -1.0))
    return ffn


def _mean(at: Stream, sizes: list[int], rate: float) -> LinearAttention:
    """W_l <- W_l - rate * the sum of S_l over the tokens that are not masked."""
    pieces = [(getattr(at, f"w{layer}"), getattr(at, f"s{layer}")) for layer in range(1, len(sizes))]
    first, last = pieces[0][0].start, pieces[-1][0].stop
    mixer, one = theory_attention(at.width, 1, last - first), slice(0, 1)
    wire(mixer.q, (one, at.one, 1.0))
    wire(mixer.k, (one, at.one, 1.0))
    places = [slice(w.start - first, w.stop - first) for w, _ in pieces]
    wire(mixer.v, *((place, s, 1.0) for place, (_, s) in zip(places, pieces, strict=True)))
    wire(mixer.o, (slice(first, last), slice(0, last - first), -rate))
    return mixer


def _clear(at: Stream, sizes: list[int]) -> MLP:
    """Everything after the weights to 0: -r(z) + r(-z)."""
    rest = slice(getattr(at, f"w{len(sizes) - 1}").stop, at.width)
    n = rest.stop - rest.start
    ffn, positive, negative = MLP(at.width, 2 * n, act="relu"), slice(0, n), slice(n, 2 * n)
    wire(ffn.up, (positive, rest, 1.0), (negative, rest, -1.0))
    wire(ffn.down, (rest, positive, -1.0), (rest, negative, 1.0))
    return ffn


class DeepOptimizer(Construction):
    name = "deep_descent"
    summary = "a transformer trains a deep ReLU network on the pairs in its context, step by step of gradient descent"
    papers = ("transformers-deep-optimizers",)
    settings = {  # noqa: RUF012
        "pairs": Setting(16, 1, 1024, "the number of pairs in the context"),
        "d": Setting(3, 1, 8, "the number of inputs"),
        "width": Setting(4, 1, 8, "the width of the network's hidden layers"),
        "depth": Setting(3, 2, 4, "the number N of the network's layers"),
        "steps": Setting(4, 1, 16, "the number of steps"),
        "rate": Setting(0.1, 1e-6, 0.2, "the learning rate"),
        "seed": Setting(0, 0, 2**31, "the seed of the pairs and of the network"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return _built(settings, eps=2.0**-20)

    def claims(self, settings: Settings) -> list[Claim]:
        x, y, query = _data(settings)
        trained = descended(settings, x[0], y[0])
        wanted = network(trained, query[0])
        usual = self.settled({"seed": settings["seed"]})
        return [
            Claim(
                "a query holds the prediction of the network after all steps",
                f"largest difference from steps by autograd, {QUERIES} queries",
                lambda m: largest(m(x, y, query)[0] - wanted),
                most=1e-8,
            ),
            Claim(
                "every token holds the trained weights",
                "largest difference from steps by autograd",
                lambda m: largest(m.weights(m.stream(x, y, query))[0] - _flat(trained)),
                most=1e-8,
            ),
            Claim(
                "a derivative of the ReLU that climbs slowly, up to a = 1/2, is another descent",
                "largest difference of the weights from steps by autograd, 4 steps of the usual network",
                lambda m: _apart(_built(usual, eps=0.5), usual),
                least=1e-5,
                limit=True,
            ),
        ]


def _data(settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and queries."""
    n, d, seed = settings["pairs"], settings["d"], settings["seed"]
    return draw(seed, 1, n, d), draw(seed + 1, 1, n), draw(seed + 2, 1, QUERIES, d)


def _apart(module: Any, settings: Settings) -> float:
    x, y, query = _data(settings)
    return largest(module.weights(module.stream(x, y, query))[0] - _flat(descended(settings, x[0], y[0])))


def _flat(weights: list[Tensor]) -> Tensor:
    return torch.cat([w.flatten() for w in weights])


def _sizes(settings: Settings) -> list[int]:
    return [settings["d"], *[settings["width"]] * (settings["depth"] - 1), 1]


@torch.no_grad()
def _built(settings: Settings, eps: float) -> nn.Module:
    module = DeepDescent(_sizes(settings), settings["pairs"], settings["steps"], settings["rate"], eps)
    module.start.copy_(_flat(_weights(settings)))
    return finished(module)


def _weights(settings: Settings) -> list[Tensor]:
    """W_1 .. W_N before the first step."""
    shapes = list(itertools.pairwise(_sizes(settings)))
    return [
        draw(settings["seed"] + 10 + layer, out, wide) * (2 / wide) ** 0.5 for layer, (wide, out) in enumerate(shapes)
    ]


def network(weights: list[Tensor], x: Tensor) -> Tensor:
    """x (n, d) -> (n,)."""
    for w in weights[:-1]:
        x = (x @ w.T).relu()
    return (x @ weights[-1].T)[:, 0]


def descended(settings: Settings, x: Tensor, y: Tensor) -> list[Tensor]:
    """The weights after the steps, on the mean of (f(x) - y)^2 / 2, by autograd."""
    weights = _weights(settings)
    for _ in range(settings["steps"]):
        with torch.enable_grad():
            leaves = [w.clone().requires_grad_() for w in weights]
            slopes = torch.autograd.grad((network(leaves, x) - y).square().mean() / 2, leaves)
        weights = [w - settings["rate"] * s for w, s in zip(weights, slopes, strict=True)]
    return weights
