"""One page a feature, as JSON for the report: where it is active, how often, how strongly, and what stands near it.

{"features": [{
    "feature": 17, "density": 0.004, "mean": 1.3, "most": 9.2,       mean of its codes where it is active; the largest
    "histogram": {"edges": [...], "counts": [...]},                  of its codes; edges are powers of two
    "passages": [{"row": 4711, "at": 8, "ids": [...], "codes": [...]}],  most active first; `at` is the token's place
    "neighbours": [{"feature": 3, "cosine": 0.8}]}],
 "density": [...], "unexplained": 0.2, "active": 31.4, "never": 12,  of all features: density; error, mean number active
 "sections": [...]}                                                 the same as tables, which the report draws

Rows are the calibration text's tokens in their order, so a passage may begin in the text before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layersmith.explaining.dictionaries.weights import neighbours
from layersmith.ffn.sparse_dictionary import SparseDictionary

#: Rows whose codes are held at once.
CHUNK = 1024
#: Codes from 2^LOWEST to 2^HIGHEST have bins of their own; what is outside counts in the outermost.
LOWEST, HIGHEST = -8, 8
PASSAGES, AROUND = 5, 8


@dataclass(frozen=True)
class Activity:
    """Of every feature over all rows.

    counts     int64 (F, bins): how many of its codes lie in each bin
    sums       (F,) sum of its codes
    best       (F, PASSAGES) its largest codes, and `rows` where they are; -1 where it was active less often
    unexplained  ||y - y'||^2 / ||y - mean||^2
    active     mean number of active features of a token
    """

    counts: Tensor
    sums: Tensor
    best: Tensor
    rows: Tensor
    unexplained: float
    active: float
    tokens: int

    @property
    def density(self) -> Tensor:
        """(F,) share of tokens for which each feature is active."""
        return self.counts.sum(-1).double() / max(self.tokens, 1)


@torch.no_grad()
def activity(dictionary: SparseDictionary, inputs: Tensor, outputs: Tensor) -> Activity:
    """Run the dictionary over rows (N, D), a chunk at a time."""
    features, bins = len(dictionary.decoder), HIGHEST - LOWEST
    device = inputs.device
    counts = torch.zeros(features * bins, dtype=torch.int64, device=device)
    sums = torch.zeros(features, dtype=torch.float64, device=device)
    best = torch.zeros(PASSAGES, features, device=device)
    rows = torch.full((PASSAGES, features), -1, dtype=torch.int64, device=device)
    wrong, mean, total = 0.0, outputs.double().mean(0), 0.0
    for start, x, y in _chunks(inputs, outputs):
        read = dictionary.read(x)
        codes = dictionary.codes(read)
        written = dictionary.written(codes @ dictionary.decoder, read)
        wrong += float((written.double() - y.double()).square().sum())
        total += float((y.double() - mean).square().sum())
        sums += codes.double().sum(0)
        token, feature = codes.nonzero(as_tuple=True)
        bin_of = (torch.frexp(codes[token, feature]).exponent - 1 - LOWEST).clamp(0, bins - 1)
        counts += torch.bincount(feature * bins + bin_of, minlength=features * bins)
        found = codes.topk(min(PASSAGES, len(codes)), dim=0)
        where = torch.where(found.values > 0, found.indices + start, -1)
        best, order = torch.cat([best, found.values]).topk(PASSAGES, dim=0)
        rows = torch.cat([rows, where]).gather(0, order)
    tokens = len(inputs)
    shaped = counts.view(features, bins)
    active = float(shaped.sum()) / max(tokens, 1)
    return Activity(
        counts=shaped,
        sums=sums,
        best=best.T,
        rows=rows.T,
        unexplained=wrong / max(total, 1e-30),
        active=active,
        tokens=tokens,
    )


def feature_pages(
    dictionary: SparseDictionary, inputs: Tensor, ids: Tensor | None, seen: Activity, shown: int
) -> dict[str, Any]:
    """The JSON above, with pages of the `shown` features that contribute most: by the sum of their codes."""
    density = seen.density
    features = seen.sums.topk(min(shown, len(seen.sums))).indices
    features = features[seen.sums[features] > 0]
    near = neighbours(dictionary, features)
    pages = []
    for feature, others in zip(features.tolist(), near, strict=True):
        times = int(seen.counts[feature].sum())
        where = [row for row in seen.rows[feature].tolist() if row >= 0]
        pages.append(
            {
                "feature": feature,
                "density": float(density[feature]),
                "mean": float(seen.sums[feature]) / times,
                "most": float(seen.best[feature].max()),
                "histogram": {
                    "edges": [2.0**power for power in range(LOWEST, HIGHEST + 1)],
                    "counts": seen.counts[feature].tolist(),
                },
                "passages": [passage(dictionary, inputs, ids, feature, row) for row in where],
                "neighbours": others,
            }
        )
    return {
        "sections": [_overview(dictionary, seen), _table(pages)],
        "features": pages,
        "density": [round(share, 7) for share in density.tolist()],
        "unexplained": seen.unexplained,
        "active": seen.active,
        "never": int((density == 0).sum()),
    }


@torch.no_grad()
def passage(dictionary: SparseDictionary, inputs: Tensor, ids: Tensor | None, feature: int, row: int) -> dict[str, Any]:
    """The tokens around a row, with the feature's code at each."""
    start, stop = max(0, row - AROUND), min(len(inputs), row + AROUND + 1)
    codes = dictionary.codes(dictionary.read(inputs[start:stop]))[:, feature]
    return {
        "row": row,
        "at": row - start,
        "ids": None if ids is None else ids[start:stop].tolist(),
        "codes": [round(code, 4) for code in codes.tolist()],
    }


def _overview(dictionary: SparseDictionary, seen: Activity) -> dict[str, Any]:
    density = seen.density
    rows = [
        ["features", len(density)],
        ["active for a token, on average", round(seen.active, 2)],
        ["never active on this text", int((density == 0).sum())],
        ["active for more than one token in ten", int((density > 0.1).sum())],
        ["error on the text it was fitted to, 1 being that of the mean", round(seen.unexplained, 4)],
    ]
    title = f"A dictionary with the activation {dictionary.activation}"
    return {"title": title, "table": {"columns": ["", ""], "rows": rows}}


def _table(pages: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        [
            f"feature {page['feature']}",
            round(page["density"], 5),
            round(page["mean"], 3),
            round(page["most"], 3),
            ", ".join(f"{near['feature']} ({near['cosine']:.2f})" for near in page["neighbours"][:3]),
        ]
        for page in pages
    ]
    columns = ["", "share of tokens", "mean where active", "most", "nearest decoder rows (cosine)"]
    return {"title": "The features that contribute most", "table": {"columns": columns, "rows": rows}}


def _chunks(inputs: Tensor, outputs: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    for start in range(0, len(inputs), CHUNK):
        yield start, inputs[start : start + CHUNK], outputs[start : start + CHUNK]
