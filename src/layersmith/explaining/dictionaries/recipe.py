"""How a dictionary is trained, as settings; checked before anything heavy is done."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from layersmith.errors import UserError, suggest

KINDS = ("transcoder", "skip_transcoder", "sae")
ACTIVATIONS = ("topk", "batch_topk", "jumprelu", "gated", "relu")
#: A dictionary with as many features as it sees tokens can remember each of them.
ROWS_PER_FEATURE = 2


@dataclass(frozen=True)
class Recipe:
    """
    kind        "transcoder" (outputs from inputs), "skip_transcoder" (with a linear path) or "sae" (outputs from
                themselves)
    activation  as for the part `sparse_dictionary`
    expansion   features per channel of the site
    k           active features of each token: exactly so many with "topk"; for "jumprelu", "gated" and "relu" the
                weight of the sparsity penalty is steered towards it
    steps       optimiser steps, each over `batch` tokens
    lr          highest learning rate of Adam: reached after a warm-up, falling to zero over the last fifth
    seed        of the first weights and of the order of tokens
    dead_after  tokens after which a feature that was never active counts as dead, and is trained on what is left over
    """

    kind: str = "transcoder"
    activation: str = "topk"
    expansion: int = 8
    k: int = 32
    steps: int = 2000
    batch: int = 1024
    lr: float = 2e-3
    seed: int = 0
    dead_after: int = 100_000

    def __post_init__(self) -> None:
        _known("kind", self.kind, KINDS)
        _known("activation", self.activation, ACTIVATIONS)
        for name in ("expansion", "k", "steps", "batch", "dead_after"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"A dictionary needs a positive whole number for {name}, not {value!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UserError(f"A dictionary needs a whole number of at least 0 for seed, not {self.seed!r}.")
        if not isinstance(self.lr, int | float) or not 0 < self.lr < float("inf"):
            raise UserError(f"A dictionary needs a positive number for lr, not {self.lr!r}.")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Recipe:
        """The recipe of these settings; UserError for one that does not exist."""
        names = [field.name for field in fields(cls)]
        for name in settings:
            if name not in names:
                raise UserError(f"A dictionary has no setting {name!r}. {suggest(name, names)}")
        return cls(**settings)

    def check_rows(self, rows: int, d_model: int) -> None:
        """UserError if there are too few tokens for a dictionary of that size, or fewer features than k."""
        features = self.expansion * d_model
        if self.k > features:
            raise UserError(f"k={self.k} features cannot be active: expansion={self.expansion} makes only {features}.")
        if rows >= ROWS_PER_FEATURE * features:
            return
        fits = rows // (ROWS_PER_FEATURE * d_model)
        smaller = f", or a smaller dictionary: expansion={fits} fits this text" if fits else ""
        raise UserError(
            f"Too little text for this dictionary: it would have {features} features (expansion={self.expansion} at "
            f"width {d_model}), and the text has {rows} tokens; at least {ROWS_PER_FEATURE * features} are needed, or "
            f"features remember single tokens. Give more text{smaller}."
        )


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"A dictionary has no {name} {value!r}. {suggest(str(value), list(known))}")
