"""Leaks: nothing crosses tokens in a token-wise part, nothing comes from the future, another sequence or padding.

Two probes are used side by side, in float64. Replacing tokens finds leaks through any path, also a discrete one such
as a ranking; the Jacobian finds leaks too small for one replacement to show. Neither alone finds both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.check.subject import Failed, Subject, outputs, require_close, require_finite
from layersmith.contract import Operator

#: Long enough to cross the borders of chunks of 16, 32 and 64; probed on both sides of each.
TOKENS = 130
POSITIONS = (0, 1, 15, 16, 31, 32, 63, 64, 65, 127, 128)
EXACT = 1e-9


def token_wise(subject: Subject) -> str:
    """Feed-forwards, norms and linear maps: the output of a token depends on that token alone."""
    module = subject.build(torch.float64)
    x = subject.input(2, TOKENS, dtype=torch.float64)
    _probe(subject, module, x, lambda t: torch.arange(TOKENS) != t, "another token")
    return f"{len(POSITIONS)} positions: replacement and Jacobian"


def causal(subject: Subject) -> str:
    """Causal mixers and blocks: the output of token t depends on tokens up to t alone."""
    module = subject.build(torch.float64)
    x = subject.input(2, TOKENS, dtype=torch.float64)
    _probe(subject, module, x, lambda t: torch.arange(TOKENS) > t, "a later token")
    return f"{len(POSITIONS)} positions: replacement and Jacobian"


def batch_invariance(subject: Subject) -> str:
    """A sequence gives the same outputs alone, and whatever stands beside it in the batch."""
    module = subject.build(torch.float64)
    x = subject.input(3, 33, dtype=torch.float64)
    with torch.no_grad():
        together = outputs(module, x)
        worst = 0.0
        for row in range(3):
            alone = outputs(module, x[row : row + 1])
            what = f"row {row} alone against row {row} in a batch of 3"
            worst = max(worst, require_close(alone, together[row : row + 1], EXACT, what))
        other = x.clone()
        other[1:] = 3 * subject.input(2, 33, dtype=torch.float64, seed=2)
        require_close(outputs(module, other)[:1], together[:1], EXACT, "row 0 after the other rows were replaced")
    return f"relative error {worst:.0e}"


def padding_invariance(subject: Subject) -> str:
    """Mixers and blocks: with a mask, padding on either side changes no real token, whatever it holds."""
    module = subject.build(torch.float64)
    real, padded = 45, 70
    x = subject.input(2, padded, dtype=torch.float64)
    with torch.no_grad():
        full = outputs(module, x)
        everything = torch.ones(2, padded, dtype=torch.bool)
        require_close(outputs(module, x, mask=everything), full, 1e-6, "a mask of all True against no mask")
        for side, kept in (("right", slice(0, real)), ("left", slice(padded - real, padded))):
            mask = everything.clone()
            mask[1] = False
            mask[1, kept] = True
            held = torch.where(mask[..., None], x, 10 * subject.input(2, padded, dtype=torch.float64, seed=3))
            y = outputs(module, held, mask=mask)
            require_finite(y, f"outputs with {side} padding")
            alone = outputs(module, held[1:, kept])
            # Rotary tables may be held in float32, hence not the exactness of the other checks.
            require_close(y[1:, kept], alone, 1e-4, f"{side}-padded sequence against the sequence alone")
            require_close(y[:1], full[:1], 1e-6, f"unpadded row beside a {side}-padded one")
    return "left and right padding"


def _probe(subject: Subject, module: Operator, x: Tensor, forbidden, source: str) -> None:  # type: ignore[no-untyped-def]
    """Fail if any output at POSITIONS depends on the tokens that `forbidden(position)` marks."""
    x = x.requires_grad_()
    y = outputs(module, x)
    scale = max(y.abs().max().item(), 1e-12)
    weights = torch.randn(subject.d_out, dtype=x.dtype)
    noise = 3 * subject.input(*x.shape[:2], dtype=x.dtype, seed=2)
    for position in POSITIONS:
        marked = forbidden(position)
        with torch.no_grad():
            changed = outputs(module, torch.where(marked[:, None], noise, x))
        moved = (changed[:, position] - y[:, position]).abs().max().item() / scale
        if not moved <= EXACT:
            raise Failed(f"token {position} changed by {moved:.1e} (relative) when {source} was replaced")
        if not y.requires_grad:
            continue
        (slope,) = torch.autograd.grad((y[:, position] * weights).sum(), x, retain_graph=True, allow_unused=True)
        if slope is None:
            continue
        influence = slope.abs().amax(dim=(0, 2))
        leak = influence[marked].max().item() if marked.any() else 0.0
        if leak > EXACT * max(influence.max().item(), 1e-12):
            worst = int((influence * marked).argmax())
            raise Failed(f"token {position} has a gradient of {leak:.1e} with respect to token {worst}, {source}")
