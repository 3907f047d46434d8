"""Where gradient descent takes one layer of attention: to the tokens that tell, away from those that are everywhere.

A text of class n holds tokens of its own, which stand in no other class, and common ones, as often in all classes. One
head without positions looks from the last token at all of them, each kind l of token with one score z_l; its mean c_n,
brought to length 1, goes through a decoder Y to the logits of the classes:

    c_ln = P(l | n) exp(z_l) / sum over l,      f_n = c_n / |c_n|,      logits = Y f_n

Gradient descent from 0 on z and Y, with the rates for each: the scores of common tokens fall and those of distinct ones
rise, the frequent ones most ("scan"); once the decoder tells the classes apart, gradients vanish and attention stays
where it is ("snap"). A decoder that learns faster ends the scan earlier.

Paper: "Scan and Snap: Understanding Training Dynamics and Token Composition in 1-layer Transformer" (distinct and
common tokens and the normalised mean confirmed in the authors' code, facebookresearch/luckmatters).
Differs from the paper: one kind of last token; expectations over texts, not samples; plain gradient descent for a
number of steps, where the paper follows the limit; both rates are equal unless set (there the decoder learns faster).
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention

#: Tokens of a class's own, the second one half as frequent as the first, and common ones; the share of the latter.
DISTINCT, COMMON, SHARE = 2, 4, 0.5
TOKENS, TEXTS = 200, 50
#: Taken off the score of a token that is none to look at.
BARRED = 1e6


class Scanner(nn.Module):
    """ids (B, T) int64 -> (B, kinds of tokens): how much the last position looks at each kind.

    scores  of each kind of token
    """

    def __init__(self, scores: Tensor):
        super().__init__()
        kinds = len(scores)
        self.at = at = Stream(token=kinds, ask=1, seen=kinds)
        self.head = SoftmaxAttention(at.width, 1, head_dim=kinds, causal=False, scale=1.0)
        one, every = slice(0, 1), slice(0, kinds)
        wire(self.head.q, (one, at.ask, 1.0))
        wire(self.head.k, (one, at.token, scores[None]), (one, at.ask, -BARRED))  # the last token is none of the text
        wire(self.head.v, (every, at.token, 1.0))
        wire(self.head.o, (at.seen, every, 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        kinds = self.at.token.stop
        x = torch.zeros(len(ids), ids.shape[1] + 1, self.at.width, dtype=self.head.q.weight.dtype)
        x[:, :-1, self.at.token] = F.one_hot(ids, kinds).to(x.dtype)
        x[:, -1, self.at.ask] = 1.0
        return self.head(x)[0][:, -1, self.at.seen]


class ScanAndSnap(Construction):
    name = "scan_and_snap"
    summary = "gradient descent moves one layer's attention to tokens of one class alone, and then freezes"
    papers = ("scan-snap",)
    settings = {  # noqa: RUF012
        "classes": Setting(4, 2, 8, "how many classes of texts there are"),
        "rate": Setting(1.0, 0.5, 2.0, "the learning rate of scores and decoder"),
        "steps": Setting(3000, 1000, 20000, "the steps of gradient descent"),
        "seed": Setting(0, 0, 2**31, "the seed of the texts it is tried on"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Scanner(trained(settings["classes"], settings["rate"], settings["rate"], settings["steps"])))

    def claims(self, settings: Settings) -> list[Claim]:
        classes, rate, steps = settings["classes"], settings["rate"], settings["steps"]
        own = classes * DISTINCT
        ids = _texts(settings)
        quick = finished(Scanner(trained(classes, 10 * rate, rate, steps)))
        longer = finished(Scanner(trained(classes, rate, rate, 2 * steps)))
        return [
            Claim(
                "every token of one class alone has gained",
                "least of their scores, which began at 0",
                lambda m: float(_scores(m)[:own].min()),
                least=0.01,
            ),
            Claim(
                "every common token has lost",
                "largest of their scores",
                lambda m: float(_scores(m)[own:].max()),
                most=-0.1,
            ),
            Claim(
                f"it looks more at what tells, in {TEXTS} texts",
                "share of attention on tokens of one class alone, above their share of the text",
                lambda m: _gain(m, ids, own),
                least=0.1,
            ),
            Claim(
                "a decoder that learns ten times as fast ends the scan earlier",
                "gain of that share, less that of the faster decoder",
                lambda m: _gain(m, ids, own) - _gain(quick, ids, own),
                least=0.05,
                limit=True,
            ),
            Claim(
                "then attention stays where it is",
                "further gain in twice as many steps",
                lambda m: _gain(longer, ids, own) - _gain(m, ids, own),
                most=0.03,
                limit=True,
            ),
        ]


def frequencies(classes: int) -> Tensor:
    """P(l | n): (classes, kinds) float64, distinct tokens first, class by class."""
    own = torch.tensor([2.0, 1.0], dtype=torch.float64)
    distinct = torch.block_diag(*[(1 - SHARE) * own[None] / own.sum()] * classes)
    return torch.cat((distinct, torch.full((classes, COMMON), SHARE / COMMON, dtype=torch.float64)), 1)


@torch.enable_grad()
def trained(classes: int, decoder_rate: float, score_rate: float, steps: int) -> Tensor:
    """The scores after gradient descent from 0 on the mean cross entropy of the classes."""
    p = frequencies(classes)
    scores = torch.zeros(p.shape[1], dtype=torch.float64, requires_grad=True)
    decoder = torch.zeros_like(p, requires_grad=True)
    for _ in range(steps):
        c = (p.log() + scores).softmax(1)
        loss = F.cross_entropy(F.normalize(c, dim=1) @ decoder.T, torch.arange(classes))
        up, back = torch.autograd.grad(loss, (scores, decoder))
        with torch.no_grad():
            scores -= score_rate * up
            decoder -= decoder_rate * back
    return scores.detach()


def _texts(settings: Settings) -> Tensor:
    """Texts of random classes: (TEXTS, TOKENS) int64."""
    draw, p = random.Random(settings["seed"]), frequencies(settings["classes"]).tolist()
    kinds = range(len(p[0]))
    return torch.tensor([draw.choices(kinds, draw.choice(p), k=TOKENS) for _ in range(TEXTS)])


def _scores(module: Any) -> Tensor:
    return module.head.k.weight[0, module.at.token]


def _gain(module: nn.Module, ids: Tensor, own: int) -> float:
    there = (ids < own).double().mean(1)
    return float((module(ids)[:, :own].sum(1) - there).mean())
