"""SmartMixed: every hidden neuron chooses its own activation from a pool; the choice is then frozen and grouped.

    choosing:  h_j = sum_a w_ja act_a((W_up x + b_up)_j),   w_j = one-hot at argmax_a (logit_ja + noise_ja)
    frozen:    neurons sorted by activation, so that each activation is one call on a slice

Shapes: x (..., D) -> h (..., d_hidden) -> y = W_down h + b_down (..., D); logits (d_hidden, pool).
Training: noise is Gumbel, drawn once per call for each neuron and activation, and the gradient to the logits is that of
softmax((logits + noise) / temperature). Evaluation: no noise, the largest logit. `freeze()` gives the frozen part with
equal outputs; a pool of one is the plain MLP.

Paper: Omidvar 2025, "SmartMixed: A Two-Phase Training Strategy for Adaptive Activation Function Learning in Neural
Networks", arXiv 2510.22450. Confirmed in the author's code (omidvaramin/SmartMixed): the straight-through choice, the
pool, temperature 0.5, logits that start at 0 but for 0.001 at a random choice.
Differs from the paper: no noise in evaluation; activations are not clamped to [-10, 10]; the frozen neurons are really
sorted (the permutation is absorbed in the weights around them) instead of being gathered and scattered at each call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import activation

POOL = ("relu", "sigmoid", "tanh", "leaky_relu", "elu", "selu")


class SmartMixed(FeedForward):
    """MLP whose hidden neurons choose their activations.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    pool                names of the candidate activations
    temperature         of the softmax behind the choice
    groups              None while choosing; frozen: neurons of each activation of the pool, in its order
    bias                add biases
    """

    name = "smart_mixed"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        pool: tuple[str, ...] | list[str] = POOL,
        temperature: float = 0.5,
        groups: list[int] | None = None,
        bias: bool = True,
    ):
        super().__init__()
        require_positive(SmartMixed, d_model=d_model, d_hidden=d_hidden)
        if not pool:
            raise ValueError("SmartMixed: pool must name at least one activation.")
        if not temperature > 0:
            raise ValueError(f"SmartMixed: temperature must be above 0, not {temperature!r}.")
        if groups is not None and (len(groups) != len(pool) or min(groups) < 0 or sum(groups) != d_hidden):
            raise ValueError(
                f"SmartMixed: groups={groups} must hold one count for each of the {len(pool)} activations of the pool, "
                f"{d_hidden} neurons together."
            )
        self.acts = [activation(name) for name in pool]
        self.temperature, self.groups = temperature, groups
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.down = nn.Linear(d_hidden, d_model, bias=bias)
        self.logits = None
        if groups is None:
            first = torch.randint(len(pool), (d_hidden,))
            self.logits = nn.Parameter(0.001 * F.one_hot(first, len(pool)).float())

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if self.logits is None:
            parts = zip(self.acts, hidden.split(self.groups or [], dim=-1), strict=True)
            return self.down(torch.cat([act(part) for act, part in parts], dim=-1))
        values = torch.stack([act(hidden) for act in self.acts], dim=-1)
        return self.down((values * self.choice(self.logits).to(values.dtype)).sum(-1))

    def choice(self, logits: Tensor) -> Tensor:
        """One-hot (d_hidden, pool); in training drawn with noise, with a gradient to the logits."""
        if not self.training:
            return F.one_hot(logits.argmax(-1), len(self.acts))
        noise = -(-torch.rand_like(logits).clamp_min(1e-20).log()).clamp_min(1e-20).log()
        soft = ((logits + noise) / self.temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), len(self.acts)).to(soft.dtype)
        return hard + (soft - soft.detach())

    def counts(self) -> list[int]:
        """Neurons for each activation of the pool, by the largest logit."""
        if self.logits is None:
            return list(self.groups or [])
        return torch.bincount(self.logits.argmax(-1), minlength=len(self.acts)).tolist()

    @torch.no_grad()
    def freeze(self) -> SmartMixed:
        """The frozen part: neurons sorted by their choice, outputs equal to evaluation mode's."""
        if self.logits is None:
            raise ValueError("SmartMixed: the choices of this part are frozen already.")
        order = self.logits.argmax(-1).argsort(stable=True)
        config = {key: value for key, value in self.spec().items() if key != "name"}
        frozen = SmartMixed(**{**config, "groups": self.counts()}).to(self.up.weight)
        frozen.up.load_state_dict({key: value[order] for key, value in self.up.state_dict().items()})
        frozen.down.load_state_dict(self.down.state_dict() | {"weight": self.down.weight[:, order]})
        return frozen
