"""Simplified: mixer and feed-forward side by side, with no skip around either of them.

    y = a mixer(norm(x)) + b ffn(norm(x))

a starts at 1 and b at `feed`, both are learned. A stack of such layers trains only if its mixers pass tokens on by
themselves: with `simplified_attention`, which starts at the identity, y = norm(x) + b ffn(norm(x)) at first. What is a
skip in other layers is a part of the attention matrix here. With norm=None there are no norms either.

Shapes: x (B, T, D) -> y (B, T, D). State: the mixer's.

Paper: He & Hofmann 2023, "Simplifying Transformer Blocks", arXiv 2311.01906 (its parallel block, SAS-P). Confirmed in
the authors' released code: the sum, both gains, b = 0.1 for 18 layers, which is to shrink like depth^-1/2.
Differs from the paper: the mixer may be any.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Composed, Spec, ffn_of, mixer_of, norm_of, operators
from layersmith.contract import Operator, State, require_positive


class Simplified(Composed):
    """Mixer and feed-forward side by side, without a skip.

    d_model     width of the residual stream
    mixer, ffn  specs of the sublayers
    norm        spec of the norm before both; None for none
    feed        what the gain of the feed-forward starts at
    """

    name = "simplified"

    def __init__(self, d_model: int, mixer: Spec, ffn: Spec, norm: Spec | None = None, feed: float = 0.1):
        super().__init__()
        require_positive(Simplified, d_model=d_model)
        self.norm, self.mixer, self.ffn = norm_of(norm, d_model), mixer_of(mixer, d_model), ffn_of(ffn, d_model)
        self.mixed, self.fed = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(float(feed)))

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        h = self.norm(x)
        y, state = self.mixer(h, state, mask)
        return self.mixed * y + self.fed * self.ffn(h), state

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((part, 1) for part in (*operators(self.norm), self.mixer, self.ffn))
