"""Early exits: after some layers a token may answer already, if the answer is sure enough; then it runs no further.

    logits_e = lm_head(norm_e(x))   after e layers;   a token with max softmax(logits_e) > threshold leaves there

Its logits are those of the exit, and its stream is copied upwards unchanged, so that later tokens find keys and values
of it in every layer. A threshold of 1 lets nobody leave. In training nobody leaves either, and the loss is the mean of
the losses of all exits and of the last layer.

Shapes: x (B, T, D) -> logits (B, T, V).

Paper: Elbayad et al. 2019, "Depth-Adaptive Transformer", arXiv 1910.10073 (aligned training, exit by a threshold on the
maximum probability, copied states).
Differs from the paper: exits have norms of their own and share the output map; it is a decoder alone; exits that are
predicted (multinomial, or stop or go on at every layer) are not there. Layers still run for all tokens of a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.block.shared.inside import norm_of
from layersmith.errors import UserError
from layersmith.model.config import TransformerConfig


class Exits(nn.Module):
    """The norms of the exits that a config asks for."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.places = list(config.exits or [])
        runs = config.loops * len(config.steps)
        if self.places != sorted(set(self.places)) or not all(0 < place < runs for place in self.places):
            raise UserError(
                f"exits={config.exits} of a model that runs {runs} layers: they are numbers of layers after which a "
                f"token may leave, from 1 to {runs - 1}, in order."
            )
        self.norms = nn.ModuleList(norm_of(config.final_norm, config.d_model, "final_norm") for _ in self.places)
        self.threshold = config.exit_threshold


class Leaving:
    """Who has left in one forward of a model, and what the exits said."""

    def __init__(self, exits: Exits | None, lm_head: nn.Module):
        self.exits, self.lm_head = exits, lm_head
        self.said: list[Tensor] = []
        #: Of every token: whether it has left, its stream and logits where it did, after how many layers.
        self.left: Tensor | None = None

    def after(self, runs: int, x: Tensor) -> Tensor:
        """The stream after so many layers, with whom it lets go there."""
        x, exits = self.kept(x), self.exits
        if exits is None or runs not in exits.places:
            return x
        logits = self.lm_head(exits.norms[exits.places.index(runs)](x))
        if exits.training:
            self.said.append(logits)
        elif exits.threshold < 1:
            self._let_go(runs, x, logits, logits.softmax(-1).amax(-1) > exits.threshold)
        return x

    def kept(self, x: Tensor) -> Tensor:
        """The stream, those who have left before as they were then."""
        return x if self.left is None else torch.where(self.left[..., None], self.stream, x)

    def _let_go(self, runs: int, x: Tensor, logits: Tensor, sure: Tensor) -> None:
        if self.left is None:
            self.left, self.stream, self.logits = sure, x, logits
            self.depth = torch.full_like(sure, runs, dtype=torch.long)
            return
        self.stream = torch.where(self.left[..., None], self.stream, x)
        self.logits = torch.where(self.left[..., None], self.logits, logits)
        self.depth = torch.where(self.left, self.depth, runs)
        self.left = self.left | sure

    def answers(self, logits: Tensor) -> Tensor:
        """The logits of the last layer for the last tokens, those who left with the ones they left with."""
        if self.left is None:
            return logits
        kept = logits.shape[1]
        return torch.where(self.left[:, -kept:, None], self.logits[:, -kept:], logits)

    def loss(self, last: Tensor, labels: Tensor) -> Tensor:
        """Mean over the exits that spoke and the last layer of the next-token cross entropy."""
        losses = [next_token_loss(logits, labels) for logits in (*self.said, last)]
        return torch.stack(losses).mean()

    def depths(self, x: Tensor, runs: int) -> Tensor:
        """(B, T): how many layers every token ran through, `runs` if it never left."""
        if self.left is None:
            return torch.full(x.shape[:2], runs, device=x.device)
        return torch.where(self.left, self.depth, runs)


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of labels (B, T) given the tokens before each; -100 where none is to be predicted."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
