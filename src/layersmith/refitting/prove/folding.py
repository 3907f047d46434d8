"""The exact rewrites at the end of a run: tried on the finished mix, timed beside it, kept where they help.

A fold leaves what the model computes as it is, so quality has no say; cost has. One is kept when it makes the mix
measurably faster or smaller and makes none of parameters, bytes and FLOPs grow (a head untied from its embedding, say).
"""

from __future__ import annotations

from typing import Any

from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import Edit
from layersmith.anatomy.twin import twin
from layersmith.errors import UserError
from layersmith.measuring.cost import model_cost
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import latency, model_step, ratio
from layersmith.measuring.shape import Shape
from layersmith.refitting.prove.folds import FOLDS
from layersmith.refitting.prove.folds.fold import Fold
from layersmith.runs.workspace import Workspace

#: A latency ratio that counts as faster on a clock with some noise.
FASTER = 0.99
COSTS = ("params", "bytes", "flops")


def fold_where_it_pays(
    model: Any, shape: Shape, workspace: Workspace, mix: str
) -> tuple[list[dict[str, Any]], list[Edit]]:
    """Fold the model in place. Returns what was tried and what came of it, and the edits to save the model with.

    Each record: `name`, `kept`, `reason` in plain words, and where it was tried `latency_ratio` and the cost ratios.
    Decisions are kept in the workspace under `mix`, a name of what the model is made of, so that a resumed run does
    not decide anew by another clock.
    """
    tried: list[dict[str, Any]] = []
    edits: list[Edit] = []
    for name, rewrite in FOLDS.items():
        if not rewrite.tried:
            continue
        decided = workspace.load_json(f"folds/{mix}/{name}")
        if decided is None or decided["kept"]:
            try:
                fold = rewrite.make(model, find_sites(model))
                decided = decided or {"name": name, **_tried(model, fold, shape)}
            except UserError as reason:
                decided = {"name": name, "kept": False, "reason": str(reason)}
            workspace.save_json(f"folds/{mix}/{name}", decided)
            if decided["kept"]:
                fold.apply(model)
                edits += fold.written
        tried.append(decided)
    return tried, edits


def _tried(model: Any, fold: Fold, shape: Shape) -> dict[str, Any]:
    """Whether the fold pays: the model beside a folded twin, at the shape of the run."""
    folded = twin(model)
    fold.apply(folded)  # puts new parameters in the places of old ones, so the model keeps its own
    before, after = model_cost(model, shape), model_cost(folded, shape)
    device, _ = placement(model)
    steps = {"as it was": model_step(twin(model), shape), "folded": model_step(folded, shape)}
    timings = latency(steps, device=device)
    found = {name: after.share(name, before) for name in COSTS}
    found["latency_ratio"] = ratio(timings, "folded", "as it was")
    grown = [name for name in COSTS if found[name] > 1]
    pays = found["latency_ratio"] <= FASTER or any(found[name] < 1 for name in COSTS)
    if grown:
        reason = f"exact, but {' and '.join(grown)} would grow. {' '.join(fold.notes)}".strip()
    else:
        reason = "exact, and it pays" if pays else "exact, but neither faster nor smaller here"
    return {"kept": pays and not grown, "reason": reason, **found}
