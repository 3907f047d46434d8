"""`export`: a model, or the result of a refit, as a file for another runtime.

load       in float32
express    parts that round in the format's own int8, or in floats where the user says so
write      by the format's own library, into a folder beside the target
prove      outputs equal the model's at several shapes; the distance on text; both on one clock
keep       only then does the file get its name
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from layersmith import checkpoint
from layersmith.anatomy.running import check_module, plainly
from layersmith.checkpoint.saving import stock_part
from layersmith.disk import writing
from layersmith.errors import UserError
from layersmith.exporting.expressible import dequantized, expressed
from layersmith.exporting.options import ExportConfig, check, main_file
from layersmith.exporting.proof import NotTheModel, check_equal, divergences, timed
from layersmith.exporting.subject import TOKENS, Subject, blame, check_exportable, edits_of, model_inputs
from layersmith.exporting.targets import TARGETS, implementation
from layersmith.kinds import check_kinds
from layersmith.measuring.environment import environment
from layersmith.measuring.shape import parse_shape

SCHEMA = "layersmith.export/1"


@dataclass(frozen=True)
class Exported:
    """What an export came to; `exported["key"]` reads an entry of the document (docs/export.md).

    file      the one to open
    """

    file: Path
    document: dict[str, Any] = field(repr=False)

    def __getitem__(self, key: str) -> Any:
        return self.document[key]

    def to_json(self) -> dict[str, Any]:
        """The document that `layersmith export --json` prints."""
        return self.document


def export(
    model: Any,
    *,
    to: str,
    out: str | os.PathLike[str],
    dequantize: bool = False,
    dtype: str = "auto",
    data: str | os.PathLike[str] = "stdlib",
    at: str = "prefill=1x512",
    rounds: int = 20,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    trust_remote_code: bool = False,
) -> Exported:
    """Write a model for another runtime, prove that it is the same model there, and time both.

    model       a loaded model (then pass its tokenizer too), a folder, a Hub id, a .gguf file, or "pocket"
    to          "onnx", "openvino" or "gguf"
    out         a file with the format's ending, or a new folder, which gets the tokenizer and config too
    dequantize  write parts that round, and that the format has no operation for, as the same maps in float32
    dtype       that a GGUF file stores: "auto" (that of the source), "float32", "float16", "bfloat16"
    data        text on which the distance of both is measured (held-out part), as for `measure`
    at          the prefill shape both are timed at, with as many threads as torch uses

    Raises UserError for a missing library, an edit that cannot be expressed (naming it and the nearest that can), an
    `out` that exists, and a file whose outputs are not the model's; then nothing is left behind.
    """
    check_kinds(export, locals())
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    if not isinstance(model, str):
        check_module(model)
    config = ExportConfig(
        to=to,
        out=Path(out).expanduser(),
        dequantize=dequantize,
        dtype=dtype,
        data=os.fspath(data),
        at=at,
        rounds=rounds,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    check(config)
    name = model if isinstance(model, str) else type(model).__name__
    if isinstance(model, str):
        model, tokenizer = checkpoint.load(model, trust_remote_code=trust_remote_code)
    if model.dtype != torch.float32:
        raise UserError(f"The model is in {model.dtype}; give it in float32 (as layersmith.load does) or by its name.")
    check_exportable(model)
    place = next(place for place in config.out.absolute().parents if place.exists())
    with writing(config.out), tempfile.TemporaryDirectory(prefix=".layersmith-export-", dir=place) as scratch:
        document = _export(model, tokenizer, name, config, Path(scratch))
        _keep(Path(scratch), config)
    return Exported(main_file(config), document)


@torch.no_grad()
def _export(model: Any, tokenizer: Any, name: str, config: ExportConfig, scratch: Path) -> dict[str, Any]:
    target, made = TARGETS[config.to], implementation(config.to)
    stock: Any = stock_part(model, [])[0]
    plain, became = expressed(stock, made.express, config.dequantize, target.title)
    subject = Subject(
        model=plain,
        edits=[edit for edit in edits_of(model) if edit.path not in became["floats"]],
        inputs=model_inputs(plain, 2, TOKENS),
        source=name,
        tokenizer=tokenizer,
        dtype=checkpoint.stored_dtypes(model).main if config.dtype == "auto" else getattr(torch, config.dtype),
    )
    # A model with parts in floats is another one: what is written is held against the same parts in floats.
    reference = dequantized(stock, became["floats"]) if became["floats"] else stock
    rounds = bool(became["int8"]) or subject.dtype.itemsize < checkpoint.stored_dtypes(model).main.itemsize
    try:
        with plainly(plain), redirect_stdout(io.StringIO()):  # torch.onnx prints what it does
            file = made.write(subject, scratch, main_file(config).name)
        runners = made.open_runner(file, torch.get_num_threads())
        proved = check_equal(reference, next(iter(runners.values())), rounds)
    except Exception as error:  # whatever an exporter raises about somebody's model
        if isinstance(error, UserError) and not isinstance(error, NotTheModel):
            raise
        with plainly(plain), redirect_stdout(io.StringIO()):
            blamed = blame(subject, made.alone, target.title, error)
        raise blamed from error
    if config.out.suffix != target.suffix:
        plain.config.save_pretrained(scratch)
        if tokenizer is not None and config.to != "gguf":
            tokenizer.save_pretrained(scratch)
    document = {
        "schema": SCHEMA,
        "model": name,
        "to": config.to,
        "file": str(main_file(config)),
        "bytes": sum(each.stat().st_size for each in scratch.iterdir()),
        "int8": became["int8"],
        "floats": became["floats"],
        "proved": proved,
        "divergence": divergences(model, tokenizer, runners, config.data, config.seed),
        "at": config.at,
        "rounds": config.rounds,
        "timed": timed(model, runners, parse_shape(config.at), config.rounds, config.seed),
        "notes": made.notes(subject),
        "environment": {**environment(), **{package: version(package) for package in made.VERSIONS}},
    }
    if config.out.suffix != target.suffix:
        (scratch / "layersmith.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def _keep(scratch: Path, config: ExportConfig) -> None:
    """Give what was written its name. Nothing was there when the run began, and nothing is replaced now."""
    folder = main_file(config).parent
    folder.mkdir(parents=True, exist_ok=True)
    for each in sorted(scratch.iterdir()):
        if (folder / each.name).exists():
            raise UserError(f"{folder / each.name} appeared while the model was exported. Nothing was written over.")
    for each in sorted(scratch.iterdir()):
        shutil.move(each, folder / each.name)
