"""What every mixer does with its inputs: check them, split and normalise heads, move padding out of the way.

Shapes: x (B, T, D); mask (B, T) bool, True at real tokens; heads (B, H, T, head_dim).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive


def head_sizes(
    owner: type, d_model: int, n_heads: int, n_kv_heads: int | None, head_dim: int | None
) -> tuple[int, int]:
    """(n_kv_heads, head_dim) with their defaults filled in; a ValueError when they do not fit together."""
    require_positive(owner, d_model=d_model, n_heads=n_heads)
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    require_positive(owner, n_kv_heads=n_kv_heads)
    if n_heads % n_kv_heads:
        raise ValueError(
            f"{owner.__name__}: n_heads={n_heads} must be a multiple of n_kv_heads={n_kv_heads}, so that every "
            f"key-value head serves the same number of query heads."
        )
    if head_dim is None:
        if d_model % n_heads:
            raise ValueError(
                f"{owner.__name__}: d_model={d_model} is not a multiple of n_heads={n_heads}; give head_dim."
            )
        head_dim = d_model // n_heads
    require_positive(owner, head_dim=head_dim)
    return n_kv_heads, head_dim


def check_inputs(mixer: Mixer, x: Tensor, state: State | None, mask: Tensor | None) -> None:
    """ValueError for a state given to a mixer that cannot stream, or a mask that is not a bool (B, T)."""
    name = type(mixer).__name__
    if state is not None and not mixer.streams:
        raise ValueError(
            f"{name} is not causal here: every token reads the whole sequence, so it cannot continue from a state. "
            f"Build it with causal=True for streaming or generation."
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
        raise ValueError(
            f"{name}: mask must be a bool tensor of shape {tuple(x.shape[:2])} (batch, tokens), True at real "
            f"tokens; got {mask.dtype} of shape {tuple(mask.shape)}."
        )


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, H * head_dim) -> (B, H, T, head_dim)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, head_dim) -> (B, T, H * head_dim)."""
    return x.transpose(1, 2).flatten(2)


class HeadNorm(nn.RMSNorm):
    """RMS norm over head_dim that keeps the dtype of its input, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def packed_slots(mask: Tensor) -> Tensor:
    """(B, T): where each token goes when real tokens move to the front, in order, and padding to the back.

    A mixer with a convolution needs its real tokens to be neighbours; `pack` and `unpack` move them there and back.
    """
    real, n_real = mask.long(), mask.sum(1, keepdim=True)
    return torch.where(mask, real.cumsum(1) - 1, n_real + (1 - real).cumsum(1) - 1)


def pack(x: Tensor, slots: Tensor) -> Tensor:
    """x (B, T, D) with every token moved to its slot."""
    return torch.zeros_like(x).scatter(1, slots[..., None].expand_as(x), x)


def unpack(x: Tensor, slots: Tensor) -> Tensor:
    """Undo `pack`."""
    return x.gather(1, slots[..., None].expand_as(x))
