"""What claims about trained feed-forwards share: pocket's sites with their calibration text, and what a change costs.

    pocket = Pocket()
    replaced = {site: method.build(pocket.view(site), settings) for site in pocket.sites}
    kl, perplexity = pocket.quality(list(replaced.values()))

Text is held-out standard-library text on which nothing was fitted.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch

from layersmith import checkpoint
from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.edit import Replacement, apply, restore
from layersmith.measuring.divergence import Divergence
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Sizes, prepare
from layersmith.refitting.view import SublayerView
from layersmith.runs.workspace import Workspace


class Pocket:
    """pocket with stored calibration activations; `sites` are the names of its feed-forwards."""

    def __init__(self, calibration: int = 32, report: int = 24, seed: int = 0):
        self.model, tokenizer = checkpoint.load("pocket")
        self.model.eval().requires_grad_(False)
        sizes = Sizes(calibration=calibration, search=4, report=report, heal=0)
        self.batches = prepare(self.model, tokenizer, "stdlib", sizes, seed)
        self.anatomy = find_sites(self.model)
        self.sites = [site.name for site in self.anatomy.sites if site.kind == "ffn"]
        self._folder = tempfile.TemporaryDirectory()
        workspace = Workspace(Path(self._folder.name) / "run", {})
        replay = Replay(self.model, self.anatomy)
        self._activations = Activations(replay, self.anatomy, self.batches, workspace)
        self._activations.calibrate()

    def view(self, site: str) -> SublayerView:
        return self._activations.view(self.anatomy.site(site))

    @torch.no_grad()
    def quality(self, replacements: list[Replacement]) -> tuple[float, float]:
        """(KL to the original in nats per token, perplexity) with all replacements in place, on the report text."""
        divergence, loss, count = Divergence(), 0.0, 0
        for batch in self.batches.report:
            expected = self.model(**batch)
            before = [apply(self.model, replacement) for replacement in replacements]
            try:
                found = self.model(**batch)
            finally:
                for undo in reversed(before):
                    restore(self.model, undo)
            divergence.add(expected, found)
            logits, target = found.logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten()
            loss += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
            count += len(target)
        return float(divergence.value), math.exp(loss / count)
