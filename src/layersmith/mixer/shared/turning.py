"""RoPE in three operations, by a table of angles that all layers of a model share.

    turn(x) = x cos + partner(x) sin        partner: the other channel of each pair; sin is negative for the first

which is the rotation of `rope.py` with both channels of a pair in one line. The angles of all positions up to a power
of two are computed once per process and setting; a token's are looked up.

Shapes: x (B, T, H, head_dim); cos and sin (B or 1, T, 1, size), size the channels that rotate.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.mixer.shared.rope import rotary_table, token_positions

#: Tables are made for at least this many positions, and for twice as many whenever they are too short.
SHORTEST = 256


def turning_rows(
    x: Tensor, mask: Tensor | None, seen: Tensor | None, *, size: int, theta: float, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """(cos, sin) of the tokens of x (B, T, H, head_dim), which come after `seen` (B,) real ones."""
    batch, tokens = x.shape[:2]
    start = 0 if seen is None else int(seen.max() if batch > 1 else seen)
    table = turning_table(start + tokens, x, size=size, theta=theta, interleaved=interleaved)
    if mask is None and (seen is None or batch == 1):
        rows = table[None, start : start + tokens]
    else:
        rows = F.embedding(token_positions(x, mask, seen), table.flatten(1)).unflatten(-1, (2, -1))
    cos, sin = rows[:, :, None].unbind(3)
    return cos, sin


def turning_table(positions: int, x: Tensor, *, size: int, theta: float, interleaved: bool) -> Tensor:
    """(positions or more, 2, size): cosines and sines from position 0 on, in the dtype and on the device of x."""
    length = max(SHORTEST, 1 << (positions - 1).bit_length())
    return _table(length, size, theta, interleaved, x.dtype, x.device)


def turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotate the first channels of x (B, T, H, head_dim)."""
    size = cos.shape[-1]
    turning = x if size == x.shape[-1] else x[..., :size]
    if interleaved:
        partner = turning.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    else:
        partner = turning.roll(size // 2, dims=-1)
    turned = torch.addcmul(turning * cos, partner, sin)
    return turned if size == x.shape[-1] else torch.cat((turned, x[..., size:]), dim=-1)


@lru_cache(maxsize=16)
def _table(length: int, size: int, theta: float, interleaved: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(length, 2, size): cosines, and sines with the signs of `turn`, of the positions from 0 on."""
    # Made for good: a table from inside inference mode could not take part in a later fine-tuning.
    with torch.inference_mode(False), torch.no_grad():
        positions = torch.arange(length, device=device)[None]
        cos, sin = (t[0, 0] for t in rotary_table(positions, size, theta, dtype))
        if interleaved:
            pairs = torch.stack((cos, cos), -1).flatten(-2), torch.stack((-sin, sin), -1).flatten(-2)
        else:
            pairs = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return torch.stack(pairs, dim=1)
