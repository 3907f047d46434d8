"""Rotary position embedding (RoPE): turn pairs of channels by an angle proportional to the token's position.

    angle(p, i) = p * theta^(-2 i / r),   i = 0 .. r/2 - 1
    (a, b) -> (a cos - b sin,  b cos + a sin)   for each of the r/2 channel pairs

so that the dot product of a rotated query and key depends only on the distance of their positions. Only the first
r channels of a head rotate (r = head_dim unless a fraction is given). Pair i is (x_i, x_{i + r/2}) as in Llama and
GPT-NeoX, or (x_2i, x_2i+1) when `interleaved`, as in GPT-J and in the paper.

The position of a token is the number of real tokens before it, so padding on either side changes nothing.

Paper: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864.
Differs from the paper: the default pairing is the half-split one of the released models.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_size(owner: type, head_dim: int, theta: float | None, fraction: float, interleaved: bool) -> int:
    """Number r of channels that rotate (0 without theta); a ValueError when the settings contradict each other."""
    if theta is None:
        if fraction != 1.0 or interleaved:
            raise ValueError(
                f"{owner.__name__}: rope_fraction and rope_interleaved have no effect without rope_theta; "
                f"give rope_theta (10000.0 is usual) or leave them out."
            )
        return 0
    size = int(head_dim * fraction)
    if theta <= 0 or not 0 < fraction <= 1 or size < 2 or size % 2:
        raise ValueError(
            f"{owner.__name__}: rope_theta={theta}, rope_fraction={fraction} rotate {size} of {head_dim} channels; "
            f"theta must be positive and the number of rotated channels even, between 2 and head_dim."
        )
    return size


def token_positions(x: Tensor, mask: Tensor | None, seen: Tensor | None) -> Tensor:
    """Positions (B or 1, T) of the tokens of x (B, T, D); `seen` (B,) counts the real tokens of earlier chunks."""
    if mask is None:
        positions = torch.arange(x.shape[1], device=x.device)[None]
    else:
        positions = mask.long().cumsum(1) - mask.long()
    return positions if seen is None else positions + seen[:, None]


def tokens_seen(x: Tensor, mask: Tensor | None, seen: Tensor | None) -> Tensor:
    """(B,): real tokens up to and including this chunk; the next chunk's `seen`."""
    if mask is not None:
        return mask.sum(1) if seen is None else mask.sum(1) + seen
    if seen is not None:
        return seen + x.shape[1]
    return torch.full((x.shape[0],), x.shape[1], device=x.device, dtype=torch.long)


def rotary_table(positions: Tensor, size: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (B, 1, T, size/2), computed in at least float32: bfloat16 cannot hold position 300."""
    precise = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=precise) / size
    angles = positions[:, None, :, None].to(precise) * (1.0 / theta**exponents)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor], interleaved: bool = False) -> Tensor:
    """Rotate the first channels of x (B, H, T, head_dim) by a table from `rotary_table`."""
    cos, sin = table
    size = 2 * cos.shape[-1]
    turning, rest = x[..., :size], x[..., size:]
    if interleaved:
        a, b = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = turning.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    # Most models rotate whole heads; appending nothing would still copy everything.
    return turned if size == x.shape[-1] else torch.cat((turned, rest), dim=-1)
