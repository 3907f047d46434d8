"""What is exported: the stock model with its edits, the inputs it is traced with, and who is to blame when it fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from layersmith import catalogue
from layersmith.anatomy.edit import Edit
from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.probe import accepts
from layersmith.checkpoint.hub import first_words
from layersmith.checkpoint.saving import stock_part
from layersmith.contract import Mixer
from layersmith.errors import UserError
from layersmith.measuring.inputs import config_of, example_inputs, reads_text

#: Tokens of the traced example: no power of two and no width of a model, so that a size that was taken for a constant
#: shows when another one is tried.
TOKENS = 19
#: Rows and tokens that a graph is tried at: none is the traced one, and one is long.
OTHER_SIZES = ((1, 33), (2, 20), (3, 11), (1, 130))
#: What each family has that every format can express.
NEAREST = {
    "ffn": "'glu' or 'mlp'",
    "mixer": "'softmax_attention'",
    "norm": "'rms_norm' or 'layer_norm'",
    "linear": "'linear' or 'low_rank'",
    "block": "'zero'",
}


Alone = Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Subject:
    """What a target writes.

    model      of a transformers class, in float32, all of it expressible as far as is known beforehand
    edits      what was changed in it
    inputs     keyword arguments of one forward, tensors alone
    source     the name it was loaded by
    tokenizer  None where there is none
    dtype      most weights are stored in
    """

    model: Any
    edits: list[Edit]
    inputs: dict[str, Tensor]
    source: str
    tokenizer: PreTrainedTokenizerBase | None
    dtype: torch.dtype

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """Which dimensions may differ: rows everywhere, and tokens where there are any."""
        auto = torch.export.Dim.AUTO
        tokens = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
        return {name: {0: auto, 1: auto} if name in tokens else {0: auto} for name in self.inputs}


def edits_of(model: nn.Module) -> list[Edit]:
    """The edits a loaded checkpoint of ours was built with; none for any other model."""
    return stock_part(model, [])[1]


def model_inputs(model: nn.Module, batch: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """Keyword arguments of one forward, with the mask of a text's real tokens: the last row is padded by a third."""
    tokens = min(tokens, longest_input(model) or tokens)
    inputs = example_inputs(model, batch, tokens, seed)
    if reads_text(model) and accepts(model, "attention_mask"):
        mask = torch.ones_like(inputs["input_ids"])
        if batch > 1:
            mask[-1, -(tokens // 3) :] = 0
        inputs["attention_mask"] = mask
    return inputs


def check_exportable(model: Any) -> None:
    """UserError for what cannot be written as one graph of inputs and outputs."""
    config = config_of(model)
    if config is None or not hasattr(model, "main_input_name"):
        raise UserError(f"{type(model).__name__} is no model of transformers, and only these are exported.")
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{type(model).__name__} has an encoder and a decoder, which other runtimes hold as several graphs; "
            f"layersmith exports models of one. transformers' own exporters (transformers.exporters, "
            f"export_for_generation) write them."
        )


def blame(subject: Subject, alone: Alone, title: str, error: Exception) -> UserError:
    """The UserError for a failed export: names the first edit whose operator fails by itself, where one does.

    alone  a target's way from a module and its input to a function in its format
    """
    tried: set[str] = set()
    for edit in subject.edits:
        name = edit.spec["name"]
        if name in tried or (failed := _fails(subject.model, edit, alone)) is None:
            tried.add(name)
            continue
        family = catalogue.entry(name).family if name in catalogue.ENTRIES else ""
        return UserError(
            f"{title} cannot express the edit {name!r} at {edit.path}: {_said(failed)} The nearest that it can is "
            f"{NEAREST.get(family, 'a stock sublayer')} there; `layersmith refit --methods` chooses what may stand in "
            f"a result."
        )
    return UserError(f"{type(subject.model).__name__} cannot be exported to {title}: {_said(error)}")


@torch.no_grad()
def _fails(model: Any, edit: Edit, alone: Alone) -> Exception | None:
    """What is wrong with the operator of an edit by itself in the format; None when nothing is."""
    module: Any = model.get_submodule(edit.path)
    operator: Any = getattr(module, "operator", module)
    width = getattr(operator, "d_in", None)
    if width is None:  # became something of the format's own
        return None
    operator = _FirstOutput(operator) if isinstance(operator, Mixer) else operator
    try:
        run = alone(operator, torch.randn(2, TOKENS, width))
        for rows, tokens in OTHER_SIZES:
            x = torch.randn(rows, tokens, width)
            expected, found = operator(x), run(x)
            if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-2, atol=1e-2):
                return ValueError(f"its graph is right at the traced size only, and wrong at {rows}x{tokens}.")
    except Exception as failed:  # whatever the format's library raises
        return failed
    return None


def _said(error: BaseException) -> str:
    """The innermost error in a line: exporters wrap it in several layers of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", first_words(error))


class _FirstOutput(nn.Module):
    """A mixer without its state."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x)[0]
