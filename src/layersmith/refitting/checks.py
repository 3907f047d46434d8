"""What a refit refuses before anything is stored: a model, a shape or a folder that it would fail on later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from layersmith import checkpoint
from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.running import MODEL_FAILURES
from layersmith.disk import writable_folder
from layersmith.errors import UserError
from layersmith.measuring.cost import read
from layersmith.measuring.divergence import first_run, main_output
from layersmith.measuring.inputs import reads_text
from layersmith.measuring.shape import Shape
from layersmith.refitting.build.workers import check_workers
from layersmith.refitting.calibrate.batches import Batch
from layersmith.refitting.options import RefitConfig
from layersmith.runs.workspace import refuse_a_foreign_folder


def check_by_name(model: Any, config: RefitConfig) -> None:
    """A UserError for what only a model given by its name can have."""
    check_workers(config.workers, model)
    if config.device is not None and not isinstance(model, str):
        raise UserError("device is for a model given by name. A loaded model stays where it is: move it with .to().")


def checked_out(out: str | Path) -> Path:
    """The folder of the run as an absolute path. UserError unless all that a run writes there can be written."""
    folder = writable_folder(out)
    refuse_a_foreign_folder(folder)
    checkpoint.check_replaceable(folder / "model")
    for name in ("result.json", "report.html", "pareto.svg"):
        if (folder / name).is_dir():
            raise UserError(f"{folder / name} is a folder, where a file is to be written. Give another --out.")
    return folder


def check_shape(model: nn.Module, shape: Shape) -> None:
    """Raise a UserError now, and not after the library was built, when the model does not run at the run's shape."""
    try:
        read(model, shape)
    except UserError:
        raise
    except MODEL_FAILURES as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"{type(model).__name__} does not run at {shape}, the shape that costs are measured at: "
            f"{type(error).__name__}: {said} Choose another one with --at."
        ) from error


def beyond_context(model: nn.Module, shape: Shape) -> str | None:
    """What to say of a shape that is longer than what the model was made for, but runs; None of any other."""
    limit = longest_input(model) if reads_text(model) else None
    if limit is None or shape.tokens <= limit:
        return None
    return (
        f"{shape} is beyond the {limit} tokens that this model was made for: costs are measured at the shape, quality "
        f"on texts of at most {limit} tokens"
    )


@torch.no_grad()
def check_finite(model: Any, batch: Batch) -> None:
    """Raise a UserError when the model yields NaN or infinity on real text: nothing could be measured on it."""
    if not torch.isfinite(main_output(first_run(model, batch))).all():
        raise UserError(
            "The model yields NaN or infinity on the calibration text, so nothing can be fitted to it. Check its "
            "weights, and load it in float32 or bfloat16 rather than float16."
        )
