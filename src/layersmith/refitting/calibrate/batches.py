"""The data of a run, cut once into batches that never overlap: fit, search, report and heal.

calibration split -> `fit` and `holdout` (methods and local errors) · held-out split -> `search` (scores, refinement,
early stops) and `report` (every final figure; nothing is chosen on it) · train split -> `heal`.

Nothing is in two of them: the splits are made by content, and an example that was read for one is left out of the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from layersmith.anatomy.limits import longest_input
from layersmith.data.examples import Example, Reader
from layersmith.errors import UserError

Batch = dict[str, Tensor]

#: Real tokens of text below which a purpose says nothing: less is refused.
LEAST = 128
#: A purpose that gets less than this share of what was asked for is named in the result.
NOTED_BELOW = 0.5
PURPOSES = ("fit", "holdout", "search", "report", "heal")


@dataclass(frozen=True)
class Sizes:
    """Real tokens per purpose, and in one batch, each as a number of windows of `length` tokens.

    A model that takes shorter rows, or an encoder that reads paragraphs, gets as many rows as hold the same tokens.
    """

    length: int = 256
    per_batch: int = 4
    calibration: int = 32
    search: int = 8
    report: int = 16
    heal: int = 400


@dataclass(frozen=True)
class Batches:
    """Batches (keyword arguments of the model, on its device) per purpose; `facts` says what is special about them."""

    fit: list[Batch]
    holdout: list[Batch]
    search: list[Batch]
    report: list[Batch]
    heal: list[Batch]
    facts: dict[str, str] = field(default_factory=dict)

    def purposes(self) -> dict[str, list[Batch]]:
        """{purpose: its batches}."""
        return {purpose: getattr(self, purpose) for purpose in PURPOSES}

    def tokens(self) -> dict[str, int | str]:
        """Real tokens per purpose (pictures or clips, where there are no tokens) and the facts, for the result file."""
        counts: dict[str, int | str] = {}
        for purpose, batches in self.purposes().items():
            unit = "tokens" if all("input_ids" in batch for batch in batches) else "examples"
            counts[f"{purpose}_{unit}"] = sum(_real_tokens(batch) for batch in batches)
        return counts | self.facts


def rows_of(batch: Batch) -> int:
    """Windows of text, pictures or clips in a batch."""
    return len(next(iter(batch.values())))


def first_rows(batches: list[Batch], share: int) -> list[int]:
    """How many rows of each batch make up the first 1/share of all rows, rounded up."""
    sizes = [rows_of(batch) for batch in batches]
    wanted, rows = -(-sum(sizes) // share), []
    for size in sizes:
        rows.append(min(size, wanted))
        wanted -= rows[-1]
    return rows


def prepare(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    data: str,
    sizes: Sizes,
    seed: int,
    text_column: str | None = None,
) -> Batches:
    """Read the data and cut it, to where the model is: text, pairs of texts, pictures or sound, by what it takes.

    Raises UserError, with the numbers, when there is too little of it, and for a tokenizer that is not the model's.
    """
    length = min(sizes.length, longest_input(model) or sizes.length)
    reader = Reader(model, tokenizer, data, length=length, text_column=text_column, seed=seed)
    wanted = {
        "holdout": sizes.calibration * sizes.length // 4,
        "fit": sizes.calibration * sizes.length * 3 // 4,
        "search": sizes.search * sizes.length,
        "report": sizes.report * sizes.length,
        "heal": sizes.heal * sizes.length,
    }
    found: dict[str, list[Example]] = {}
    # The held-out text first: where text repeats across files, training does without it, not the final figures.
    for split, first, second in (("heldout", "search", "report"), ("calibration", "holdout", "fit")):
        both = wanted[first] + wanted[second]
        found[first], found[second] = _divided(reader.read(split, both), wanted[first], both)
    found["heal"] = reader.read("train", wanted["heal"]) if wanted["heal"] else []
    notes = _check(found, wanted, data)
    batches = {purpose: reader.batched(found[purpose], sizes.per_batch * sizes.length) for purpose in PURPOSES}
    if reader.main != "input_ids" and batches["heal"]:
        # Fewer pictures or clips than asked for are seen again: a step is one batch, and the steps were asked for.
        steps = max(1, sizes.heal // sizes.per_batch)
        batches["heal"] = [batches["heal"][step % len(batches["heal"])] for step in range(steps)]
    return Batches(**batches, facts=reader.facts | ({"note": notes} if notes else {}))


def _divided(examples: list[Example], first: int, both: int) -> tuple[list[Example], list[Example]]:
    """Two parts, the first with `first` of `both` tokens or its share of fewer; none is empty if there are two."""
    wanted = first / both * min(both, sum(example.tokens for example in examples))
    wanted, held = max(wanted, min(LEAST, first)), 0
    for index, example in enumerate(examples):
        held += example.tokens
        if held >= wanted or index == len(examples) - 2:
            return examples[: index + 1], examples[index + 1 :]
    return examples, []


def _check(found: dict[str, list[Example]], wanted: dict[str, int], data: str) -> str:
    """What to say of purposes with much less than was asked for; a UserError for too little to conclude from."""
    held = {purpose: sum(example.tokens for example in examples) for purpose, examples in found.items()}
    text = any("input_ids" in example.tensors for examples in found.values() for example in examples)
    unit = "real tokens" if text else "positions"
    for purpose, tokens in held.items():
        least = min(LEAST, wanted[purpose]) if text else 1
        if wanted[purpose] and tokens < least:
            raise UserError(
                f"{data!r} holds too little distinct data: {tokens:,} {unit} in {len(found[purpose])} row(s) for "
                f"{purpose!r}, where {wanted[purpose]:,} are asked for and at least {least} needed. (In all: "
                f"{_listed(held)}. Passages that repeat are used once, and none for two purposes.) Give more text, or "
                "'stdlib'."
            )
    if not text:
        held.pop("heal")  # seen as often as asked for
    scarce = {purpose: tokens for purpose, tokens in held.items() if tokens < NOTED_BELOW * wanted[purpose]}
    if not scarce:
        return ""
    asked = {purpose: wanted[purpose] for purpose in scarce}
    return (
        f"little distinct data: {_listed(scarce)} {unit}, where {_listed(asked)} were asked for; give more with --data"
    )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{purpose} {count:,}" for purpose, count in counts.items())


def _real_tokens(batch: Batch) -> int:
    """Tokens of both sides, padding aside; rows, where the model takes none."""
    if "input_ids" not in batch:
        return len(next(iter(batch.values())))
    total = 0
    for ids, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        total += int(batch[mask].sum()) if mask in batch else batch[ids].numel() if ids in batch else 0
    return total
