"""What attention is trained towards: the largest margin between the best token and all others.

    min |W|  subject to  (x_best - x_t)^T W z >= 1  for all other tokens t of all examples       (Frobenius norm)

One head with W for its query map and the identity for keys and values scores x_t by x_t^T W z. Here W is the solution,
found as a problem of least squares with coefficients that are 0 or more. Gradient descent on the mean score of what the
head brings back, begun at 0, turns towards it; as W grows, attention goes to the best token alone.

Paper: "Transformers as Support Vector Machines" (the problem, and that gradient descent converges to its direction).
Differs from the paper: the best token scores 1 and all others 0, the case in which convergence is proved from any
start; steps have one length; no factored W, which the paper ties to the nuclear norm.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import draw
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

RATE, LARGE = 0.1, 100.0
#: Taken off the score of a token that is none to look at.
BARRED = 1e6


class Selector(nn.Module):
    """tokens (B, T, d), z (B, d) -> (B, d): what the head brings back to z."""

    def __init__(self, w: Tensor):
        super().__init__()
        d = len(w)
        self.at = at = Stream(x=d, ask=1)
        x, bar = slice(0, d), slice(d, d + 1)
        self.head = SoftmaxAttention(at.width, 1, head_dim=at.width, causal=False, scale=1.0)
        wire(self.head.q, (x, at.x, w), (bar, at.ask, 1.0))
        wire(self.head.k, (x, at.x, 1.0), (bar, at.ask, -BARRED))  # z is no token to choose
        wire(self.head.v, (x, at.x, 1.0))
        wire(self.head.o, (at.x, x, 1.0))

    @property
    def w(self) -> Tensor:
        return self.head.q.weight[self.at.x, self.at.x]

    def forward(self, tokens: Tensor, z: Tensor) -> Tensor:
        both = torch.cat((F.pad(tokens, (0, 1)), F.pad(z[:, None], (0, 1), value=1.0)), 1)
        return self.head(both)[0][:, -1, self.at.x]


class AttentionSVM(Construction):
    name = "attention_svm"
    summary = "attention weights of the largest margin, which gradient descent turns towards"
    papers = ("transformers-support-vector-machines",)
    settings = {  # noqa: RUF012
        "examples": Setting(4, 2, 8, "the number of examples"),
        "tokens": Setting(5, 3, 8, "the number of tokens of each, the first of which is the best"),
        "d": Setting(8, 8, 16, "the length of a token"),
        "steps": Setting(3000, 1000, 10000, "the steps of gradient descent"),
        "seed": Setting(0, 0, 2**31, "the seed of the examples"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Selector(largest_margin(*_examples(settings))))

    def claims(self, settings: Settings) -> list[Claim]:
        x, z = _examples(settings)
        return [
            Claim(
                "the best token leads everywhere by 1",
                "least lead of its score, from the query map",
                lambda m: float(_leads(m.w, x, z).min()),
                least=1 - 1e-6,
            ),
            Claim(
                "no smaller map leads as far: it is made of its constraints with weights of 0 or more",
                "gap between its squared norm and the sum of these weights, as a share",
                lambda m: _gap(m.w, x, z),
                most=1e-6,
            ),
            Claim(
                f"gradient descent from 0 turns towards it in {settings['steps']} steps",
                "cosine between the two maps",
                lambda m: _cosine(m.w, descended(x, z, settings["steps"])),
                least=0.99,
            ),
            Claim(
                "a hundred times as large it chooses the best token alone",
                "largest distance of what comes back from the best token",
                lambda m: float((_scaled(m)(x, z) - x[:, 0]).norm(dim=1).max()),
                most=1e-6,
            ),
            Claim(
                "at its own size it still mixes",
                "largest distance of what comes back from the best token",
                lambda m: float((m(x, z) - x[:, 0]).norm(dim=1).max()),
                least=0.1,
                limit=True,
            ),
            Claim(
                "the first step of gradient descent does not point there yet",
                "cosine between the two maps",
                lambda m: _cosine(m.w, descended(x, z, 1)),
                most=0.98,
                limit=True,
            ),
        ]


def _examples(settings: Settings) -> tuple[Tensor, Tensor]:
    """Tokens (n, T, d), the best one first, and queries (n, d), all of length 1."""
    n, t, d = settings["examples"], settings["tokens"], settings["d"]
    drawn = draw(settings["seed"], n, t + 1, d)
    drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    return drawn[:, :-1], drawn[:, -1]


def _constraints(x: Tensor, z: Tensor) -> Tensor:
    """One row (d^2) for each token that is not the best: its inner product with W is that token's distance in score."""
    return torch.einsum("ntd,ne->ntde", x[:, :1] - x[:, 1:], z).flatten(2).flatten(0, 1)


def largest_margin(x: Tensor, z: Tensor) -> Tensor:
    """The W of least norm, (d, d). Lawson and Hanson's way: the residual of a problem in coefficients of 0 or more."""
    rows = _constraints(x, z)
    system = torch.cat((rows.T, torch.ones(1, len(rows), dtype=rows.dtype)))
    wanted = torch.zeros(len(system), dtype=rows.dtype)
    wanted[-1] = 1.0
    found, _ = nnls(system.numpy(), wanted.numpy())
    residual = system @ torch.from_numpy(found) - wanted
    return (-residual[:-1] / residual[-1]).unflatten(0, (x.shape[2], -1))


def descended(x: Tensor, z: Tensor, steps: int) -> Tensor:
    """W after gradient descent from 0, each step of length RATE, on the mean score of what attention brings back."""
    w = torch.zeros(x.shape[2], x.shape[2], dtype=x.dtype)
    for _ in range(steps):
        p = torch.einsum("ntd,de,ne->nt", x, w, z).softmax(1)
        # p (1 - p) of the best token, by the sum of all others: 1 - p itself would soon be lost to rounding.
        slope = torch.cat((p[:, :1] * p[:, 1:].sum(1, keepdim=True), -p[:, :1] * p[:, 1:]), 1)
        up = torch.einsum("nt,ntd,ne->de", slope, x, z)
        w = w + RATE * up / up.norm()
    return w


def _leads(w: Tensor, x: Tensor, z: Tensor) -> Tensor:
    scores = torch.einsum("ntd,de,ne->nt", x, w, z)
    return scores[:, :1] - scores[:, 1:]


def _gap(w: Tensor, x: Tensor, z: Tensor) -> float:
    """At the solution W is the sum of its constraints times coefficients c >= 0, and |W|^2 is the sum of c."""
    coefficients, _ = nnls(_constraints(x, z).T.numpy(), w.flatten().numpy())
    return abs(float(coefficients.sum()) / float(w.square().sum()) - 1)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def _scaled(module: Any) -> nn.Module:
    return finished(Selector(LARGE * module.w))
