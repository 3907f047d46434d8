"""Which passages a sentence is made from, and on which others it is judged.

The text of the run is cut into passages of LENGTH tokens. A sentence is made from those of the calibration text in
which the feature is most active. It is judged on held-out text, which neither the dictionary nor the sentence has
seen: the passages where the feature is most active, one drawn from each quantile of the other active ones, and some
where it is silent.

{"17": {"shown": [{"ids": [...], "codes": [...]}],                           most active first
        "held_out": [{"from": "top", "ids": [...], "codes": [...]}]}}        from: top, quantile or silent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy import Site
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.capture import Batch, Rows, joined, watching
from layersmith.measuring.divergence import run

Passage = dict[str, Any]

#: Tokens of a passage.
LENGTH = 32
#: Passages a sentence is made from.
SHOWN = 6
#: Held-out passages: the most active, one from each of so many quantiles of the others, and silent ones.
TOP, QUANTILES, SILENT = 4, 4, 4
#: Rows whose codes are held at once.
CHUNK = 1024


def held_out(model: Any, site: Site, batches: list[Batch], tell: Callable[[str, int, int], None]) -> Rows:
    """What enters the site on the held-out text, and its token ids: "inputs" (N, D) and "ids" (N,).

    UserError where the site's positions are not tokens of text.
    """
    parts = []
    for index, batch in enumerate(batches):
        with watching(model, site, batch) as calls, evaluating(model):
            run(model, batch)
        rows = joined(calls)
        if "ids" not in rows:
            raise UserError(
                f"The positions of {site.name} are not tokens of text, so no passages can be shown to put its features "
                f"into words. Leave out --words-by, or name other sites."
            )
        parts.append({name: rows[name] for name in ("inputs", "ids")})
        tell(f"reading {site.name}", index + 1, len(batches))
    return joined(parts)


@torch.no_grad()
def passages_of(
    codes: Callable[[Tensor], Tensor], features: Sequence[int], fit: Rows, held: Rows, seed: int
) -> dict[str, dict[str, list[Passage]]]:
    """The JSON above.

    codes      what enters the site, (N, D) -> (N, F), how active every feature is
    fit, held  calibration text and held-out text: "inputs" and "ids"
    """
    chosen = list(features)
    shown, judged = (
        [_cut(torch.cat([codes(x)[:, chosen] for x in rows["inputs"].split(CHUNK)])), _cut(rows["ids"])]
        for rows in (fit, held)
    )
    found = {}
    for place, feature in enumerate(chosen):
        found[str(feature)] = {
            "shown": _most_active(shown[0][:, :, place], shown[1]),
            "held_out": _drawn(judged[0][:, :, place], judged[1], seed * 1_000_003 + feature),
        }
    return found


def _cut(rows: Tensor) -> Tensor:
    """(N, ...) -> (N // LENGTH, LENGTH, ...) on the CPU; what does not fill a passage is left out."""
    whole = len(rows) // LENGTH
    return rows[: whole * LENGTH].unflatten(0, (whole, LENGTH)).cpu()


def _most_active(codes: Tensor, ids: Tensor) -> list[Passage]:
    """Of passages as codes and ids, (P, LENGTH) each: those with the largest codes, and none without any."""
    peaks = codes.amax(1)
    best = peaks.topk(min(SHOWN, len(peaks))).indices.tolist()
    return [_passage(codes[row], ids[row]) for row in best if peaks[row] > 0]


def _drawn(codes: Tensor, ids: Tensor, seed: int) -> list[Passage]:
    """Of the same: the most active, one of each quantile of the other active ones, and silent ones."""
    draw = torch.Generator().manual_seed(seed)
    peaks = codes.amax(1)
    order = peaks.argsort(descending=True, stable=True)
    active, silent = order[: int((peaks > 0).sum())], order[int((peaks > 0).sum()) :]
    top, others = active[:TOP].tolist(), active[TOP:]
    parts = [part for part in others.tensor_split(QUANTILES) if len(part)]
    between = [int(part[torch.randint(len(part), (1,), generator=draw, device="cpu")]) for part in parts]
    quiet = silent[torch.randperm(len(silent), generator=draw, device="cpu")[:SILENT]].tolist()
    named = [("top", top), ("quantile", between), ("silent", quiet)]
    return [{"from": name, **_passage(codes[row], ids[row])} for name, rows in named for row in rows]


def _passage(codes: Tensor, ids: Tensor) -> Passage:
    return {"ids": ids.tolist(), "codes": [float(f"{max(code, 0.0):.6g}") for code in codes.tolist()]}
