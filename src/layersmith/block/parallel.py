"""Parallel: mixer and feed-forward read the same normed stream, and what both say is added at once.

    y = x + mixer(norm(x)) + ffn(norm(x))

In series the feed-forward would read norm(x + mixer(norm(x))). The two differ by what the mixer's output does to the
feed-forward's input, so that they agree to first order in the size of that output; the paper argues that trained
mixers add little to the stream, which is why the order can be given up. Mixer and feed-forward no longer wait for each
other, and their first matrices can be one.

Shapes: x (B, T, D) -> y (B, T, D). State: the mixer's.

Paper: Sonkar & Baraniuk 2023, "Investigating the Role of Feed-Forward Networks in Transformers Using Parallel Attention
and Feed-Forward Net Design"; the arrangement itself is older (GPT-J, PaLM).
Differs from the paper: the mixer may be any; its first matrices are not multiplied together with the feed-forward's.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from layersmith.block.shared.inside import Composed, Spec, ffn_of, mixer_of, norm_of, operators
from layersmith.contract import Operator, State, require_positive


class Parallel(Composed):
    """Mixer and feed-forward side by side.

    d_model         width of the residual stream
    mixer, ffn      specs of the sublayers
    norm            spec of the norm before both; None for none
    """

    name = "parallel"

    def __init__(self, d_model: int, mixer: Spec, ffn: Spec, norm: Spec | None = None):
        super().__init__()
        require_positive(Parallel, d_model=d_model)
        self.norm, self.mixer, self.ffn = norm_of(norm, d_model), mixer_of(mixer, d_model), ffn_of(ffn, d_model)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        h = self.norm(x)
        y, state = self.mixer(h, state, mask)
        return x + y + self.ffn(h), state

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((part, 1) for part in (*operators(self.norm), self.mixer, self.ffn))
