"""The identity of a refit, and of what its workers read for themselves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from layersmith.errors import UserError
from layersmith.measuring.divergence import first_run, main_output
from layersmith.refitting.calibrate.batches import Batch, Batches
from layersmith.refitting.settings import Settings
from layersmith.runs.answers import check_answers
from layersmith.runs.identity import differences, identity_of
from layersmith.runs.workspace import Workspace

PURPOSES = ("fit", "holdout", "search", "report", "heal")
#: Settings that say where the text lies. The same text at another place is the same run.
PLACES = ("data", "text_column")


def run_identity(model: nn.Module, tokenizer: Any, batches: Batches, settings: Settings) -> dict[str, Any]:
    """Everything a refit's figures depend on, as JSON."""
    chosen = {key: value for key, value in asdict(settings).items() if key not in PLACES}
    return {**_files_identity(model, tokenizer, batches), "settings": chosen}


def check_same_answers(model: nn.Module, batch: Batch, workspace: Workspace, reused: Path | None) -> None:
    """Raise a UserError when the model answers otherwise than that of the run here, or than that of a reused one."""
    for earlier in {None, reused}:
        check_answers(workspace, lambda: main_output(first_run(model, batch)), earlier)


def check_same_files(workspace: Workspace, model: nn.Module, tokenizer: Any, batches: Batches) -> None:
    """Raise a UserError unless this model and text, read again, are those that the run of the workspace read."""
    mine, run = _files_identity(model, tokenizer, batches), workspace.identity() or {}
    differing = differences({key: run.get(key) for key in mine}, mine)
    if differing:
        raise UserError(f"The files of the model or its text have changed while the run works: {', '.join(differing)}.")


def _files_identity(model: nn.Module, tokenizer: Any, batches: Batches) -> dict[str, Any]:
    return identity_of(model, tokenizer, {purpose: getattr(batches, purpose) for purpose in PURPOSES})
