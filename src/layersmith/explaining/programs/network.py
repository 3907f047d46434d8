"""A transformer whose stream holds named variables, each one-hot over k values, and whose heads choose among them.

    variables  tokens, positions, and what each head has taken;  x_v (T, k)
    a head     q = sum_v a_v x_v     k = sum_v b_v x_v     v = sum_v c_v x_v          a, b, c choose one variable each
               S_ij = q_i P k_j^T                                                     P has one k for each value of q
               looks at the nearest earlier j with S_ij = 1; at i itself after all others; at the first for want of any
    answers    logits = W [x_v over all v]

While it is trained a, b, c and the rows of P are Gumbel-softmax samples of logits at a temperature that falls, and a
head looks at many places by a softmax; afterwards each is the largest of its logits, and a head looks at one place.

Shapes: R programs of one form are trained side by side, so that the luckiest can be taken; (R, ...) in front of all.

Paper: "Learning Transformer Programs" (gates, predicate, nearest match, first position by default, scores over
temperature times sqrt(k): confirmed in the released code). Differs from the paper: no numerical variables and no
feed-forwards, as in its program for induction; heads look back alone, where those of its other tasks look both ways; no
Gumbel noise where a head looks. While training, the first position gets what a row of scores lacks to 1, where theirs
gets 1 if they are all 0 and else nothing; of discrete scores both are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: In place of log 0.
TINY = 1e-20


class Head(nn.Module):
    """One head of R programs that reads `variables` of them, with k values each."""

    def __init__(self, tries: int, variables: int, k: int, generator: torch.Generator):
        super().__init__()

        def drawn(*shape: int) -> nn.Parameter:
            logits = torch.randn(tries, *shape, generator=generator, device="cpu")
            return nn.Parameter(logits / shape[-1] ** 0.5)

        self.query, self.key, self.value = drawn(variables), drawn(variables), drawn(variables)
        self.predicate = drawn(k, k)

    def forward(self, x: Tensor, nearness: Tensor, gumbel: Gumbel | None) -> Tensor:
        """What is taken: (R, B, T, k), of the variables x (R, B, T, variables, k). nearness (T, T), -inf ahead."""
        query, key, value = (torch.einsum("rn,rbtnk->rbtk", chosen(w, gumbel), x) for w in self._gates())
        scores = torch.einsum("rbik,rkl,rbjl->rbij", query, chosen(self.predicate, gumbel), key)
        return self.looks(scores, nearness, gumbel) @ value

    def looks(self, scores: Tensor, nearness: Tensor, gumbel: Gumbel | None) -> Tensor:
        """(R, B, T, T): how much each position looks at each other; one-hot without Gumbel noise."""
        scores = scores.masked_fill(nearness == -torch.inf, 0.0)
        first = F.pad(F.relu(1 - scores.sum(-1, keepdim=True)), (0, scores.shape[-1] - 1))
        logits = (scores + first).clamp_min(TINY).log() + nearness
        if gumbel is None:
            return F.one_hot(logits.argmax(-1), scores.shape[-1]).to(scores.dtype)
        return (logits / (gumbel.temperature * self.predicate.shape[-1] ** 0.5)).softmax(-1)

    def _gates(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value


class Gumbel:
    """How choices are made while a program is trained: softmax((logits + noise) / temperature)."""

    def __init__(self, temperature: float, generator: torch.Generator):
        self.temperature, self.generator = temperature, generator

    def __call__(self, logits: Tensor) -> Tensor:
        uniform = torch.rand(logits.shape, generator=self.generator, device="cpu", dtype=logits.dtype)
        noise = -(-uniform.clamp_min(TINY).log()).log()
        return ((logits + noise) / self.temperature).softmax(-1)


def chosen(weights: Tensor, gumbel: Gumbel | None) -> Tensor:
    """A sample while training; the weights themselves, which are one-hot by then, afterwards."""
    return weights if gumbel is None else gumbel(weights)


class ProgramNetwork(nn.Module):
    """
    tokens, positions  how many of either there are; k is the larger number
    answers            what may be answered at every position
    layers, heads      of the program; the heads of one layer do not read one another
    tries, seed        R, and what the first weights are drawn with
    """

    def __init__(
        self,
        tokens: int,
        positions: int,
        answers: int,
        layers: int,
        heads: int,
        tries: int = 1,
        seed: int = 0,
    ):
        super().__init__()
        self.tokens, self.positions, self.answers, self.tries = tokens, positions, answers, tries
        self.k = max(tokens, positions)
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(
            nn.ModuleList(Head(tries, 2 + layer * heads, self.k, generator) for _ in range(heads))
            for layer in range(layers)
        )
        width = (2 + layers * heads) * self.k
        weights = torch.randn(tries, width, answers, generator=generator, device="cpu")
        self.output = nn.Parameter(weights / answers**0.5)

    def heads(self) -> list[list[Head]]:
        """Layer by layer."""
        return [[head for head in layer.children() if isinstance(head, Head)] for layer in self.layers]

    def forward(self, ids: Tensor, gumbel: Gumbel | None = None) -> Tensor:
        """Logits (R, B, T, answers) for ids (B, T) int64."""
        return torch.einsum("rbtw,rwa->rbta", self.stream(ids, gumbel).flatten(-2), self.output)

    def stream(self, ids: Tensor, gumbel: Gumbel | None = None) -> Tensor:
        """All variables after the last layer: (R, B, T, variables, k)."""
        batch, length = ids.shape
        where = torch.arange(length, device=ids.device).expand(batch, length)
        x = F.one_hot(torch.stack([ids, where], -1), self.k).to(self.output.dtype)
        x = x.expand(self.tries, *x.shape)
        near = nearness(length, x)
        for layer in self.heads():
            taken = [head(x, near, gumbel) for head in layer]
            x = torch.cat([x, torch.stack(taken, -2)], -2)
        return x


def nearness(length: int, like: Tensor) -> Tensor:
    """(T, T) in (-1, 0] for earlier positions, nearest largest; -2 for the position itself, -inf ahead."""
    where = torch.arange(length, device=like.device)
    back = (where[:, None] - where[None]).to(like.dtype)
    near = (1 - back) / length
    return near.masked_fill(back == 0, -2.0).masked_fill(back < 0, -torch.inf)
