"""In-context Boolean functions: find a rule about a few of the bits from labelled examples in the prompt.

    conjunction   all of k literals hold (a literal is a bit or its opposite)
    disjunction   one of k literals holds
    parity        an odd number of k bits is set
    majority      more than half of k bits are set

The inputs are uniform bits, written as -1 and 1. The oracle keeps every function of the class that the examples so far
allow, and says what most of them say: no predictor does better.

Paper: "Understanding In-Context Learning in Transformers and LLMs by Learning to Learn Discrete Functions" (classes
and prompt; here without its teaching sequences, and without its balancing of the labels).
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import one_of, whole
from layersmith.racing.tasks.shared.drawing import distinct, judged
from layersmith.racing.tasks.shared.examples import at_queries, interleaved, parted

KINDS = ("conjunction", "disjunction", "parity", "majority")


class InContextBoolean(Task):
    """
    kind      conjunction, disjunction, parity or majority
    n_dims    bits of an input, at most 12: the oracle goes through the whole class
    relevant  bits that the function looks at; odd for a majority
    n_points  examples in a sequence
    """

    name = "in_context_boolean"
    summary = "Find a Boolean rule about a few bits from labelled examples in the prompt."
    papers = ("understanding-context-learning-transformers-llms",)
    reads = "features"

    def __init__(self, kind: str = "majority", n_dims: int = 8, relevant: int = 3, n_points: int = 24):
        self.kind, self.n_dims = one_of("kind", kind, KINDS), whole("n_dims", n_dims, 1, 12)
        self.relevant, self.n_points = whole("relevant", relevant, 1, min(n_dims, 5)), whole("n_points", n_points, 1)
        if kind == "majority" and relevant % 2 == 0:
            raise ValueError(f"relevant={relevant!r} bits can be even for and against: give an odd number of bits.")
        self.n_inputs, self.n_outputs, self.tokens = n_dims + 1, 2, 2 * n_points

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        bits = torch.randint(2, (size, self.n_points, self.n_dims), generator=generator, device="cpu")
        places = distinct(generator, size, self.n_dims, self.relevant)
        wanted = torch.randint(2, (size, self.relevant), generator=generator, device="cpu")
        literals = bits.gather(2, places[:, None].expand(-1, self.n_points, -1))
        labels = self.values(literals, wanted[:, None])
        inputs = interleaved(2.0 * bits - 1, 2.0 * labels - 1)
        return Batch(inputs, at_queries(labels, IGNORED))

    def values(self, bits: Tensor, wanted: Tensor) -> Tensor:
        """The function of its k bits (..., k), as 0 or 1. wanted: the literals of a conjunction or disjunction"""
        if self.kind == "conjunction":
            return (bits == wanted).all(-1).long()
        if self.kind == "disjunction":
            return (bits == wanted).any(-1).long()
        count = bits.sum(-1)
        return count % 2 if self.kind == "parity" else (2 * count > self.relevant).long()

    def yardsticks(self) -> dict[str, float]:
        """random: a coin; constant: the more frequent label; oracle: the posterior vote, on 512 sequences."""
        often = {"conjunction": 0.5**self.relevant, "disjunction": 1 - 0.5**self.relevant}.get(self.kind, 0.5)
        batch = judged(self, 512)
        right = self.vote(*parted(batch.inputs)) == batch.targets[:, 0::2]
        return {"random": 0.5, "constant": max(often, 1 - often), "oracle": float(right.double().mean())}

    def vote(self, xs: Tensor, ys: Tensor) -> Tensor:
        """What most functions of the class say at each x that agree with all examples before it: (B, n) int64."""
        bits, labels = (xs > 0).long(), (ys > 0).long()
        yes, agreeing = torch.zeros_like(labels), torch.zeros_like(labels)
        signs = torch.cartesian_prod(*self.relevant * [torch.arange(2)]).reshape(-1, self.relevant)
        for places in combinations(range(self.n_dims), self.relevant):
            for wanted in signs if self.kind in ("conjunction", "disjunction") else signs[:1]:
                said = self.values(bits[..., list(places)], wanted)
                wrong = (said != labels).long()
                alive = (wrong.cumsum(1) - wrong == 0).long()
                agreeing += alive
                yes += alive * said
        return (2 * yes > agreeing).long()
