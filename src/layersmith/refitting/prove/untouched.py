"""`out/model` is replaced by a run that goes on only as that run saved it: what somebody did to it since is theirs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from layersmith.errors import UserError
from layersmith.runs.workspace import Workspace

NAME = "saved"


def remember_saved(workspace: Workspace) -> None:
    """Note what was saved; a later run here may replace that."""
    workspace.save_json(NAME, _digests(workspace.out / "model"))


def check_untouched(workspace: Workspace) -> None:
    """Raise a UserError when the saved model has been changed since: trained further, say, where it lies."""
    saved, folder = workspace.load_json(NAME), workspace.out / "model"
    if saved is None or not folder.is_dir():
        return
    found = _digests(folder)
    changed = sorted(name for name in saved.keys() | found.keys() if saved.get(name) != found.get(name))
    if found and changed:
        raise UserError(
            f"{folder} is no longer the model that this run saved: {', '.join(changed)} changed since. To run again "
            f"would write over it. Move it away, or delete it, and run the same command again. Nothing was changed."
        )


def _digests(folder: Path) -> dict[str, str]:
    """Of the weights and the config, which make the model; companions and cards may be edited."""
    found = {}
    for path in sorted((folder / "config.json", *folder.glob("*.safetensors"))):
        if path.is_file():
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
