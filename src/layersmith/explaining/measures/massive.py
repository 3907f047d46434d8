"""Massive activations: a few entries of the stream that are hundreds of times as large as all others.

    ratio   max |h| / median |h|

Paper: "Hidden Dynamics of Massive Activations in Transformer Training" follows this ratio, layer by layer. Here it is
taken of one model as it is; the growth curve over checkpoints is not fitted.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

#: How many medians an entry counts as massive from.
MASSIVE = 1000.0
#: The median is taken of about as many entries.
SAMPLE = 2**20


def massive(rows: Tensor, most: int = 3) -> dict[str, Any]:
    """Of rows (N, D): the ratio, how many entries exceed it by `MASSIVE`, and the rows and columns of the largest."""
    sizes = rows.abs().flatten()
    median = float(sizes[:: max(1, len(sizes) // SAMPLE)].median())
    largest = sizes.topk(min(most, len(sizes)))
    width = rows.shape[1]
    return {
        "ratio": float(largest.values[0]) / max(median, 1e-30),
        "massive": int((sizes >= MASSIVE * median).sum()) if median > 0 else 0,
        "where": [
            {"row": int(place) // width, "column": int(place) % width, "value": float(rows.flatten()[place])}
            for place in largest.indices
        ],
    }
