"""The text of a run, cut once into batches that never overlap: fit, search, report and heal.

calibration split -> `fit` and `holdout` (methods and local errors) · held-out split -> `search` (scores, refinement,
early stops) and `report` (every final figure; nothing is chosen on it) · train split -> `heal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.probe import with_decoder_ids
from layersmith.data import text
from layersmith.data.windows import Windows, padded_windows, windows
from layersmith.errors import UserError
from layersmith.measuring.inputs import placement

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Windows of `length` tokens per purpose, and how many stand in one batch."""

    length: int = 256
    per_batch: int = 4
    calibration: int = 32
    search: int = 8
    report: int = 16
    heal: int = 400


@dataclass(frozen=True)
class Batches:
    fit: list[Batch]
    holdout: list[Batch]
    search: list[Batch]
    report: list[Batch]
    heal: list[Batch]

    def tokens(self) -> dict[str, int]:
        """Real tokens per purpose, for the result file."""
        return {f"{k}_tokens": sum(_real_tokens(b) for b in v) for k, v in vars(self).items()}


def prepare(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None, data: str, sizes: Sizes, seed: int) -> Batches:
    """Read the text and cut it, to where the model is. Raises UserError when there is too little of it."""
    if tokenizer is None:
        raise UserError(
            "The model came without a tokenizer, so its text cannot be read. Put the tokenizer's files beside the "
            "model, or pass tokenizer=..."
        )
    padded = not _is_causal(model)
    device, _ = placement(model)

    def cut(split: str, count: int, at_least: int) -> list[Batch]:
        make = padded_windows if padded else windows
        length = min(sizes.length, longest_input(model) or sizes.length)
        documents = _enough(text.read(data, split), 2 * count * length, seed)
        found = _batched(make(documents, tokenizer, length, count, seed, at_least), sizes.per_batch, device)
        return [with_decoder_ids(model, batch) for batch in found]

    calibration = cut("calibration", sizes.calibration, at_least=2)
    heldout = cut("heldout", sizes.search + sizes.report, at_least=2)
    if len(calibration) < 2:
        calibration = _singles(calibration[0])
    if len(heldout) < 2:
        heldout = _singles(heldout[0])
    holdout_count = max(1, len(calibration) // 4)
    search_count = max(1, len(heldout) * sizes.search // (sizes.search + sizes.report))
    heal = cut("train", sizes.heal, at_least=1) if sizes.heal else []
    return Batches(
        fit=calibration[holdout_count:],
        holdout=calibration[:holdout_count],
        search=heldout[:search_count],
        report=heldout[search_count:],
        heal=heal,
    )


def _enough(documents: list[str], tokens: int, seed: int) -> list[str]:
    """A random part of the documents that surely holds that many tokens: tokenizing all of a large text takes long."""
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed), device="cpu").tolist()
    characters, taken = 0, []
    for index in order:
        taken.append(documents[index])
        characters += len(documents[index])
        if characters > 8 * tokens:
            break
    return taken


def _batched(found: Windows, size: int, device: torch.device) -> list[Batch]:
    batches = []
    for start in range(0, len(found), size):
        batch = {"input_ids": found.input_ids[start : start + size]}
        if found.attention_mask is not None:
            batch["attention_mask"] = found.attention_mask[start : start + size]
        batches.append({name: tensor.to(device) for name, tensor in batch.items()})
    return batches


def _singles(batch: Batch) -> list[Batch]:
    """One batch per row: with very little text, every purpose still needs rows of its own."""
    return [{k: v[i : i + 1] for k, v in batch.items()} for i in range(len(batch["input_ids"]))]


def _is_causal(model: nn.Module) -> bool:
    return bool(getattr(model, "can_generate", lambda: False)()) and not _config(model, "is_encoder_decoder", False)


def _config(model: nn.Module, name: str, default: Any) -> Any:
    value = getattr(getattr(model, "config", None), name, None)
    return default if value is None else value


def _real_tokens(batch: Batch) -> int:
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
