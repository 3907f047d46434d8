"""How much of the stream is where a token stands, and how much what text it is in: a two-way analysis of variance.

    h[c, t] = mean + position[t] + context[c] + rest[c, t]

with position and context the means over contexts and over positions, less the mean. The four add up to h, and the
squares of the last three to its variance, so that each has a share of it.

Paper: "Uncovering hidden geometry in Transformers via disentangling position and context". The split is confirmed in
the authors' code (JiajunSong629/uncover-hidden-geometry), which leaves the first token out, as `statistics` does: where
it is a sink, it alone would be most of what a place is worth.
Differs from the paper: of its figures the shares are here; rank and smoothness of the positions, and their angle to the
contexts, are not.
"""

from __future__ import annotations

from torch import Tensor


def split(hidden: Tensor) -> dict[str, Tensor]:
    """The parts of hidden states (C, T, D): mean (D,), position (T, D), context (C, D), rest (C, T, D); float64."""
    hidden = hidden.double()
    mean = hidden.mean((0, 1))
    position, context = hidden.mean(0) - mean, hidden.mean(1) - mean
    rest = hidden - mean - position - context[:, None]
    return {"mean": mean, "position": position, "context": context, "rest": rest}


def shares(hidden: Tensor) -> dict[str, float]:
    """The share of the variance that is position, context and rest."""
    parts, (contexts, tokens, _) = split(hidden), hidden.shape
    sums = {
        "position": contexts * float(parts["position"].square().sum()),
        "context": tokens * float(parts["context"].square().sum()),
        "rest": float(parts["rest"].square().sum()),
    }
    total = max(sum(sums.values()), 1e-300)
    return {name: value / total for name, value in sums.items()}
