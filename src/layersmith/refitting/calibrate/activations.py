"""Calibration: one streaming pass stores what enters every block; methods then see one block's sublayers at a time.

Blocks are run one after the other over all windows, each reading the stored output of the one before, so memory holds
one block's activations and disk holds (blocks + 1) x tokens x D values. Inputs and outputs of the sublayers inside a
block are recomputed from its stored input when a method asks. A model whose blocks cannot be run alone (T5 passes
position biases along, ALBERT runs one block n times) is run whole each time instead; the results are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layersmith.anatomy import Anatomy, Replay, Site
from layersmith.anatomy.replay import Captured
from layersmith.anatomy.stream import steps_in
from layersmith.errors import UserError
from layersmith.measuring.inputs import placement
from layersmith.refitting.calibrate.batches import Batch, Batches
from layersmith.refitting.cleared import CALIBRATION, Missing, is_cleared
from layersmith.refitting.view import Call, SublayerView
from layersmith.runs.workspace import Workspace

Tell = Callable[[str, int, int], None]

#: Tokens whose logits are kept to tell the error of a head.
HEAD_TOKENS = 512


class Activations:
    """The stored activations of a run. `calibrate` must have finished before the other functions are used."""

    def __init__(self, replay: Replay, anatomy: Anatomy, batches: Batches, workspace: Workspace):
        self.replay = replay
        self.device, _ = placement(replay.model)
        self.anatomy = anatomy
        self.search: list[Batch] = batches.search
        self._batches = batches
        self._workspace = workspace
        self._search_hidden: dict[int, dict[str, Tensor]] = {}
        # Of the block at work: what enters it, and all calls in it, which its sites share.
        self._block: tuple[str, dict[str, Tensor], dict[str, dict[str, list[Captured]]]] | None = None

    def calibrate(self, tell: Tell = lambda text, done, total: None) -> None:
        """Run the streaming pass; blocks already stored are not run again, nor those of a run that has ended."""
        if not self.replay.exact or is_cleared(self._workspace, CALIBRATION):
            return
        for block in range(self.replay.n_blocks + 1):
            if not self._stored(block):
                self._store(block)
            tell("calibrating", block + 1, self.replay.n_blocks + 1)

    def view(self, site: Site, seed: int = 0, statistics: dict[str, Tensor] | None = None) -> SublayerView:
        """The site with its recorded calls on the fit and holdout windows."""
        read = self._head_calls if site.kind == "head" else self._calls
        # Logits are wide: a few of them tell the error of a head.
        few = slice(1 if site.kind == "head" else None)
        return SublayerView(
            model=self.replay.model,
            anatomy=self.anatomy,
            site=site,
            fit=[c for i, b in enumerate(self._batches.fit[few]) for c in read(site, f"fit.{i}", b)],
            holdout=[c for i, b in enumerate(self._batches.holdout[few]) for c in read(site, f"holdout.{i}", b)],
            statistics={name: t.to(self.device) for name, t in (statistics or {}).items()},
            streams=self._streams(site),
            stream=lambda calls, blocks: self._stream(site, calls, blocks),
            residual=lambda calls: self._residual(site, calls),
            seed=seed,
        )

    def search_hidden(self, block: int, index: int) -> Tensor | None:
        """What enters `block` on search batch `index`; None where the model has to be run from its start."""
        if not self.replay.exact:
            return None
        if block not in self._search_hidden:
            self._search_hidden[block] = self._load(f"calibration/search-{block:03d}")
        return self._search_hidden[block][str(index)]

    def block_of(self, site: str) -> int:
        """Where the block that holds a site stands among all blocks; 0 where the model runs whole anyway.

        The head stands behind the last.
        """
        if self.anatomy.site(site).kind == "head":
            return self.replay.n_blocks if self.replay.exact else 0
        path = self.anatomy.site(self.anatomy.site(site).block).modules[0]
        return self.replay.blocks.index(path) if self.replay.exact else 0

    def forget(self) -> None:
        """Drop the activations of the block at work from memory."""
        self._block = None

    def _streams(self, site: Site) -> int:
        # What leaves the last block is kept for the search windows only.
        return self.replay.n_blocks - self.block_of(site.name) if self.replay.exact else 0

    def _stream(self, site: Site, calls: list[Call], blocks: int) -> list[Tensor]:
        """What enters the block `blocks` after the site's own, on the batches of these calls."""
        tensors = self._load(f"calibration/block-{self.block_of(site.name) + blocks:03d}")
        return [tensors[call.key] for call in calls]

    def _residual(self, site: Site, calls: list[Call]) -> list[tuple[Tensor, Tensor]]:
        """What of the stream the sublayer reads, and what it adds to it, on the batches of these calls."""
        batches = {f"fit.{i}": b for i, b in enumerate(self._batches.fit)}
        batches |= {f"holdout.{i}": b for i, b in enumerate(self._batches.holdout)}
        captured = [self._captured(site, call.key, batches[call.key]) for call in calls]
        steps = steps_in(self.anatomy, self.anatomy.site(site.block), captured[0])
        (step,) = (step for step in steps if step.site == site)
        return [(step.read(each), step.added(each)) for each in captured]

    def _stored(self, block: int) -> bool:
        return self._workspace.has_tensors(f"calibration/search-{block:03d}") and (
            block == self.replay.n_blocks or self._workspace.has_tensors(f"calibration/block-{block:03d}")
        )

    @torch.no_grad()
    def _store(self, block: int) -> None:
        """Make what enters `block` from what enters the one before (or from the model's own start)."""
        fitted: dict[str, Tensor] = {}
        searched: dict[str, Tensor] = {}
        earlier = self._load(f"calibration/block-{block - 1:03d}") if block else {}
        earlier_search = self._load(f"calibration/search-{block - 1:03d}") if block else {}
        jobs = [(f"fit.{i}", b, earlier, fitted) for i, b in enumerate(self._batches.fit)]
        jobs += [(f"holdout.{i}", b, earlier, fitted) for i, b in enumerate(self._batches.holdout)]
        jobs += [(str(i), b, earlier_search, searched) for i, b in enumerate(self.search)]
        for key, batch, source, target in jobs:
            if block == 0:
                target[key] = self.replay.block_inputs(batch)[0]
            elif block < self.replay.n_blocks or target is searched:
                target[key] = self.replay.run_block(block - 1, source[key], batch)
            if key in target and not torch.isfinite(target[key]).all():
                raise UserError(
                    f"The model yields NaN or infinity at the input of block {block} on the calibration text. "
                    f"Load it in float32, or check its weights, before refitting it."
                )
        self._workspace.save_tensors(f"calibration/search-{block:03d}", searched)
        if fitted:
            self._workspace.save_tensors(f"calibration/block-{block:03d}", fitted)

    def _load(self, name: str) -> dict[str, Tensor]:
        tensors = self._workspace.load_tensors(name)
        if tensors is None:
            raise Missing(name)
        return {key: tensor.to(self.device) for key, tensor in tensors.items()}

    def _calls(self, site: Site, key: str, batch: Batch) -> list[Call]:
        records = self._captured(site, key, batch)
        of_decoder = site.name.startswith("decoder") and "decoder_input_ids" in batch
        mask = batch.get("decoder_attention_mask" if of_decoder else "attention_mask")
        mask = None if mask is None else mask.bool()
        calls = []
        for first, last in zip(records[site.modules[0]], records[site.modules[-1]], strict=True):
            # Llama 4's experts return (B * T, D), which the block puts back in shape.
            flat = last.hidden.numel() == first.input.numel()
            output = last.hidden.reshape(first.input.shape) if flat else last.hidden
            # A tower of pictures beside text has positions of its own, all of them real.
            of_these = mask if mask is not None and mask.numel() * output.shape[-1] == output.numel() else None
            calls.append(Call(first.args, first.kwargs, first.input, output, of_these, key))
        return calls

    @torch.no_grad()
    def _captured(self, site: Site, key: str, batch: Batch) -> dict[str, list[Captured]]:
        """The calls of all sites of the block on a batch: one run of it serves them all, until `forget`."""
        index = self.block_of(site.name)
        if self._block is None or self._block[0] != site.block:
            entered = self._load(f"calibration/block-{index:03d}") if self.replay.exact else {}
            self._block = (site.block, entered, {})
        _, entered, captured = self._block
        if key not in captured:
            sites = [*self.anatomy.in_block(site.block), self.anatomy.site(site.block)]
            paths = dict.fromkeys(path for s in sites for path in s.modules)
            captured[key] = self.replay.capture(index, entered.get(key), batch, tuple(paths))[1]
        return captured[key]

    @torch.no_grad()
    def _head_calls(self, site: Site, key: str, batch: Batch) -> list[Call]:
        """One call of the head on the first HEAD_TOKENS real tokens of a batch."""
        last = self.replay.n_blocks - 1
        hidden = self._load(f"calibration/block-{last:03d}")[key] if self.replay.exact else None
        (recorded,) = self.replay.capture_after(last, hidden, batch, site.modules[0])
        rows, mask = recorded.input.flatten(0, -2), batch.get("attention_mask")
        if mask is not None and mask.numel() == len(rows):
            rows = rows[mask.flatten().bool()]
        x = rows[None, :HEAD_TOKENS]
        return [Call((x,), {}, x, self.replay.model.get_submodule(site.modules[0])(x), None, key)]
