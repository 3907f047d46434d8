"""The shape a cost is measured at: `prefill=1x512` (batch x tokens) or `decode=1x128`.

Without a shape a cost means nothing: the same model is bound by matrix products when it reads a prompt and by memory
when it writes one token, and a replacement that helps one may hurt the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from layersmith.errors import UserError

PHASES = ("prefill", "decode")
#: Of a number in a shape, at most.
_DIGITS = 9


@dataclass(frozen=True)
class Shape:
    """What one measured step is.

    phase   "prefill": one forward over (batch, tokens), without a cache.
            "decode": one new token per sequence, with `tokens` tokens already in the cache.
    batch   sequences
    tokens  tokens per sequence
    """

    phase: str
    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.phase}={self.batch}x{self.tokens}"


def parse_shape(text: str) -> Shape:
    """`"prefill=1x512"` -> `Shape("prefill", 1, 512)`; a UserError that says what is wrong otherwise."""
    match = re.fullmatch(r"\s*([a-z]+)\s*=\s*(\d+)\s*x\s*(\d+)\s*", text)
    if match is None:
        raise UserError(
            f"The shape {text!r} is not of the form PHASE=BATCHxTOKENS. Write, for example, 'prefill=1x512' (read a "
            f"prompt of 512 tokens) or 'decode=1x128' (write one token with 128 in the cache)."
        )
    if max(len(match[2]), len(match[3])) > _DIGITS:
        raise UserError(f"The shape {text[:40]!r} is larger than any memory.")
    phase, batch, tokens = match[1], int(match[2]), int(match[3])
    if phase not in PHASES:
        raise UserError(f"The shape {text!r} names the phase {phase!r}; the phases are 'prefill' and 'decode'.")
    if batch < 1 or tokens < 1:
        raise UserError(f"The shape {text!r} is empty: batch and tokens must both be at least 1.")
    return Shape(phase, batch, tokens)
