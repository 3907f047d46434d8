"""The formulas of selection rules written out slowly, and fixtures that tell each rule from its neighbours."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch

from layersmith.refitting import methods

D = 8


class View(SimpleNamespace):
    """As much of a `SublayerView` as a method looks at: an operator of ours and what went in and came out."""

    device = torch.device("cpu")

    def once(self, key, make):
        return make()

    def as_replacement(self, operator):
        return [(None, operator)]


def ffn_view(kind, d_hidden=24, tokens=60, seed=0, **config):
    """A view of a feed-forward whose channels differ in every way a score might look at."""
    torch.manual_seed(seed)
    dense = kind(D, d_hidden, **config).eval()
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            if hasattr(dense, name):
                linear = getattr(dense, name)
                linear.weight.copy_(torch.randn_like(linear.weight))
                linear.weight *= 3 * torch.rand(d_hidden)[:, None] if name != "down" else 3 * torch.rand(d_hidden)
                if linear.bias is not None:
                    linear.bias.copy_(torch.randn_like(linear.bias))
    x = torch.randn(tokens, D) + 0.5
    y = dense(x).detach()
    return View(ffn=SimpleNamespace(operator=dense), inputs=x, targets=y, statistics={}, seed=0, site=SITE)


SITE = SimpleNamespace(d_model=D, kind="ffn", name="layers.0.ffn")


def built(name, view, settings):
    return methods.get(name).build(view, settings)[0][1]


def numbers(tensor):
    return tensor.detach().double().tolist()


def silu(z):
    return z / (1 + math.exp(-z))


def linear_by_hand(linear, row):
    biases = [0.0] * linear.out_features if linear.bias is None else numbers(linear.bias)
    products = [sum(w * v for w, v in zip(weights, row, strict=True)) for weights in numbers(linear.weight)]
    return [product + bias for product, bias in zip(products, biases, strict=True)]


def hidden_by_hand(dense, x, activated=True):
    """[tokens][d_hidden]: what enters the down projection; silu is the activation of all fixtures here."""
    rows = []
    for row in numbers(x):
        up = linear_by_hand(dense.up, row)
        if dense.name == "mlp":
            rows.append([silu(u) if activated else u for u in up])
        else:
            gate = linear_by_hand(dense.gate, row)
            rows.append([(silu(g) if activated else g) * u for g, u in zip(gate, up, strict=True)])
    return rows


def out_norms(dense):
    columns = zip(*numbers(dense.down.weight), strict=True)
    return [math.sqrt(sum(w * w for w in column)) for column in columns]


def rms(values):
    return math.sqrt(sum(v * v for v in values) / len(values))


def best(scores, count):
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def distinct(right, **wrong):
    for rule, found in wrong.items():
        assert found != right, f"the fixture does not tell the right rule from {rule!r}"


def ridge_by_hand(x, y, strength):
    """W (outputs, inputs) that minimises ||x W^T - y||^2 + strength mean(diag x^T x) ||W||^2."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    gram = x.T @ x
    return np.linalg.solve(gram + strength * np.diag(gram).mean() * np.eye(len(gram)), x.T @ y).T


def unit(vector):
    size = math.sqrt(sum(v * v for v in vector))
    return [v / size for v in vector]
