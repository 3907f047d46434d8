"""Begin a run with what an earlier one of the same model and text has made: only where it is going may differ.

Calibration, candidates and scores do not depend on the budget, and take most of a run's time. Costs are measured anew:
every figure of a result comes from its own run. What a finished run has cleared away (`cleared.py`) is made again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from layersmith.errors import UserError
from layersmith.runs.identity import differences
from layersmith.runs.workspace import FORMAT, Workspace

#: Settings that say where a run is going, not what it is made of.
GOAL = ("budget", "heal_tokens", "heal_lr", "heal_adapter", "heal_baseline", "refine_evaluations", "dtype")
#: Folders of the workspace that are taken over.
TAKEN = ("calibration", "statistics", "library", "looks", "scores")


def check_reusable(earlier: Path, identity: dict[str, Any]) -> None:
    """Raise a UserError unless the run in the folder `earlier` is of the same make as one of this identity."""
    found = Workspace.joined(earlier).identity()
    if found is None or found.get("format") != FORMAT or "settings" not in found:
        raise UserError(
            f"{earlier} holds no layersmith run whose candidates could be reused"
            f"{', but one of another version' if found else ''}."
        )
    differing = differences(_make(found), _make(identity))
    if differing:
        raise UserError(
            f"The run in {earlier} cannot be reused: it differs in {', '.join(differing)}. Only the budget and healing "
            f"may differ; name the same model, data, methods, sites, seed and effort, or run without reusing it."
        )


def take_over(earlier: Path, workspace: Workspace) -> None:
    """Take over what the run in the folder `earlier` has finished; `check_reusable` must have passed."""
    for folder in TAKEN:
        if (earlier / "workspace" / folder).is_dir():
            shutil.copytree(
                earlier / "workspace" / folder,
                workspace.root / folder,
                ignore=shutil.ignore_patterns("*.new"),  # half-written ones, of a run that was killed or still works
                copy_function=_link,
                dirs_exist_ok=True,
            )


def _make(identity: dict[str, Any]) -> dict[str, Any]:
    """The part of an identity on which the files in TAKEN depend."""
    settings = {key: value for key, value in identity["settings"].items() if key not in GOAL}
    sizes = {key: value for key, value in settings.pop("sizes").items() if key != "heal"}
    text = {key: value for key, value in identity["text"].items() if key != "heal"}
    kept = {key: value for key, value in identity.items() if key != "format"}
    return {**kept, "settings": {**settings, **sizes}, "text": text}


def _link(source: str, target: str) -> None:
    # Files of a workspace are replaced, never written into, so two runs may share one; between disks it is copied.
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
