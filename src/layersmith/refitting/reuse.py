"""Begin a run with what an earlier one of the same model and text has made: only where it is going may differ.

Calibration, candidates and scores do not depend on the budget, and take most of a run's time. Costs are measured anew:
every figure of a result comes from its own run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from layersmith.errors import UserError
from layersmith.runs.workspace import Workspace

#: Settings that say where a run is going, not what it is made of.
GOAL = ("budget", "heal_tokens", "heal_lr", "heal_baseline", "refine_evaluations", "dtype")
#: Folders of the workspace that are taken over.
TAKEN = ("calibration", "statistics", "library", "scores")


def take_over(earlier: Path, workspace: Workspace, identity: dict[str, Any]) -> None:
    """Take over what the run in the folder `earlier` has finished. Raises UserError when it is of another make."""
    found = Workspace.joined(earlier).load_json("run") if (earlier / "workspace").is_dir() else None
    if found is None:
        raise UserError(f"{earlier} holds no layersmith run whose candidates could be reused.")
    ours, theirs = _make(identity), _make(found)
    differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if differing:
        raise UserError(
            f"The run in {earlier} cannot be reused: it differs in {', '.join(differing)}. Only the budget and healing "
            f"may differ; name the same model, data, methods, sites, seed and effort, or run without reusing it."
        )
    for folder in TAKEN:
        if (earlier / "workspace" / folder).is_dir():
            shutil.copytree(
                earlier / "workspace" / folder, workspace.root / folder, copy_function=_link, dirs_exist_ok=True
            )


def _make(identity: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in identity["settings"].items() if key not in GOAL}
    sizes = {key: value for key, value in settings.pop("sizes").items() if key != "heal"}
    return {"model": identity["model"], **settings, **sizes}


def _link(source: str, target: str) -> None:
    # Files of a workspace are replaced, never written into, so two runs may share one; between disks it is copied.
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
