"""How weights are written down, and the residual stream that sublayers of a construction stand on.

A residual stream is cut into named pieces (`Stream`): an attention head reads pieces and adds to another one, so that a
construction can say `wire(head.q, (rows, at.x, 1.0))` in the words of its paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from layersmith.contract import Mixer
from layersmith.mixer.linear_attention import LinearAttention

#: Outputs, inputs, and the block that stands there: a matrix, or the factor of an identity.
Block = tuple[slice, slice, float | Tensor]


class Stream:
    """Names of consecutive pieces of the residual stream: Stream(x=4, y=1).x is slice(0, 4)."""

    def __init__(self, **sizes: int):
        self._slices, self.width = {}, 0
        for name, size in sizes.items():
            self._slices[name] = slice(self.width, self.width + size)
            self.width += size

    def __getattr__(self, name: str) -> slice:
        try:
            return self.__dict__["_slices"][name]
        except KeyError:
            raise AttributeError(name) from None


@torch.no_grad()
def wire(linear: nn.Linear, *blocks: Block, bias: Mapping[int, float] | None = None) -> None:
    """Set a linear map to zero but for these blocks, and its bias, where it has one, but for these entries.

    The map becomes float64 first: 1/3 written into float32 would stay what float32 made of it.
    """
    linear.double().weight.zero_()
    for rows, columns, block in blocks:
        size = len(range(*rows.indices(linear.out_features)))
        linear.weight[rows, columns] = (
            block if isinstance(block, Tensor) else block * torch.eye(size, dtype=torch.float64)
        )
    if linear.bias is not None:
        linear.bias.zero_()
        for row, value in (bias or {}).items():
            linear.bias[row] = value


def theory_attention(d_model: int, n_heads: int, head_dim: int, causal: bool = False) -> LinearAttention:
    """Linear attention as theory writes it: no feature map, no normaliser."""
    return LinearAttention(
        d_model, n_heads, head_dim=head_dim, causal=causal, feature_map="identity", normalize=False
    ).double()


class Residual(nn.Module):
    """x <- x + part(x) for each part in turn, or for the `first` ones; mask (B, T) is handed to the mixers."""

    def __init__(self, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, mask: Tensor | None = None, first: int | None = None) -> Tensor:
        for part in self.parts[:first]:
            x = x + (part(x, mask=mask)[0] if isinstance(part, Mixer) else part(x))
        return x


def finished(module: nn.Module) -> nn.Module:
    """The module in float64, for evaluation."""
    return module.double().eval()
