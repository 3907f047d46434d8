"""Halting: layers with shared weights are looped, and every token says at each turn how much of it stops there.

    h_1 = L(x);   for t = 1 .. T-1:
        p_t = r_t halt(h_t),   r_{t+1} = r_t (1 - halt(h_t)),   a_t = a_{t-1} + p_t h_t          r_1 = 1, a_0 = 0
        s_t = a_t + r_{t+1} h_{t+1},   h_{t+1} = L(s_{t-1})                                       s_0 = h_1
    y = s_{T-1}

halt(h) = sigmoid of a two-layer network of h. The p_t are pieces broken off a stick: with the last rest they sum to 1,
so y is a mean over the turns. In evaluation a token whose rest falls below 1 - threshold has halted: its s stays what
it was. In training the loss "ponder" is penalty times the mean number of turns, 1 + sum_t r_t.

Shapes: x (B, T, D) -> h, s, y (B, T, D); p, r (B, T, 1). State: that of every layer at every turn, "0.1.k" for layer 1
at turn 0.

Paper: Tan et al. 2023, "Sparse Universal Transformer". Confirmed in the authors' code (shawntan/SUT): the order of the
updates, the halting network D -> D -> GELU -> 2 whose last weights start at zero, the threshold of 0.999 and the loss.
Differs from the paper: its queries come from h_t and its keys and values from s_t; here a layer has one input, s_t, so
that any layer may stand inside. No work is skipped for tokens that have halted, as others may still read them. Its
mixtures of experts are `sigma_moe` and others in the layers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Spec, Stack
from layersmith.contract import Operator, State, report_aux, require_positive


class Halting(Stack):
    """A loop that each token leaves when it is done.

    d_model     width of the residual stream
    layers      specs of the layers of one turn
    times       most turns
    threshold   share of a token that has stopped at which it halts, in evaluation; 1: it never does
    penalty     weight of the loss "ponder", the mean number of turns
    """

    name = "halting"

    def __init__(
        self, d_model: int, layers: list[Spec], times: int = 4, threshold: float = 0.999, penalty: float = 0.001
    ):
        super().__init__()
        require_positive(Halting, d_model=d_model, times=times)
        if not 0 < threshold <= 1:
            raise ValueError(f"Halting: threshold must lie in (0, 1], not {threshold!r}.")
        if not penalty >= 0:
            raise ValueError(f"Halting: penalty must be at least 0, not {penalty!r}.")
        self.layers, self.times = self.build_layers(layers, d_model), times
        self.threshold, self.penalty = threshold, penalty
        last = nn.Linear(d_model, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.halt = nn.Sequential(nn.Linear(d_model, d_model), nn.GELU(), last)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        kept: State = {}
        s = h = self._turn(0, x, state, mask, kept)
        stopped, rest = torch.zeros_like(h), torch.ones_like(h[..., :1])
        turns = rest
        for turn in range(1, self.times):
            halt = self.halt(h).sigmoid()
            stopped, rest = stopped + rest * halt * h, rest * (1 - halt)
            h = self._turn(turn, s, state, mask, kept)
            mixed = stopped + rest * h
            running = rest >= 1 - self.threshold
            s = mixed if self.training or self.threshold == 1 else torch.where(running, mixed, s)
            turns = turns + rest
        if self.penalty > 0:
            report_aux(self, "ponder", self.penalty * _mean(turns[..., 0], mask))
        return s, self.finished(kept)

    def _turn(self, turn: int, x: Tensor, state: State | None, mask: Tensor | None, kept: State) -> Tensor:
        for index in range(len(self.layers)):
            x = self.run(index, x, state, mask, kept, f"{turn}.{index}")
        return x

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((layer, self.times) for layer in self.inner())

    def own_flops(self, tokens: int) -> int:
        return 2 * tokens * (self.times - 1) * sum(p.numel() for p in self.halt.parameters() if p.ndim == 2)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Over the real tokens."""
    if mask is None:
        return x.mean()
    return (x * mask).sum() / mask.sum().clamp_min(1)
