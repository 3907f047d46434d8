"""What enters and what leaves a site at the real tokens of a text, kept in a bounded store on disk.

One file a batch, so that an interrupted capture goes on at the next one. A site's files are removed when it is
explained: the store never holds more than tokens x (d_in + d_out) values of one site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy import Site, original
from layersmith.anatomy.replay import first_tensor
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.tool import Observed
from layersmith.measuring.divergence import run
from layersmith.runs.workspace import Workspace

Batch = dict[str, Tensor]
Rows = dict[str, Tensor]


def capture(
    model: Any, site: Site, batches: list[Batch], workspace: Workspace, tell: Callable[[str, int, int], None]
) -> Observed:
    """The site's inputs and outputs on all batches. Batches that an earlier run stored are not run again."""
    parts: list[Rows] = []
    for index, batch in enumerate(batches):
        name = _file(site, index)
        stored = workspace.load_tensors(name)
        if stored is None:
            with watching(model, site, batch) as rows, evaluating(model):
                run(model, batch)
            stored = joined(rows)
            workspace.save_tensors(name, stored)
        parts.append(stored)
        tell(f"capturing {site.name}", index + 1, len(batches))
    whole = joined(parts)
    return Observed(whole["inputs"], whole["outputs"], whole.get("ids"), original(model, site))


def forget(site: Site, batches: list[Batch], workspace: Workspace) -> None:
    """Remove what was stored of the site."""
    for index in range(len(batches)):
        workspace.remove(_file(site, index))


@contextmanager
def watching(model: Any, site: Site, batch: Batch) -> Iterator[list[Rows]]:
    """Collects the rows of every call of the site while the model runs on `batch` inside.

    A call's rows: inputs and outputs (n, D) float32 at real tokens, and ids (n,) where the site's positions are tokens
    of text. For a block the outputs are what it adds to the stream, as an operator in its place would.
    """
    entering: list[Tensor] = []
    rows: list[Rows] = []

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering.append(first_tensor([*args, *kwargs.values()]))

    def after(module: Any, args: tuple[Any, ...], output: Any) -> None:
        rows.append(rows_of(site, batch, entering.pop(), first_tensor([output])))

    handles = [
        model.get_submodule(site.modules[0]).register_forward_pre_hook(before, with_kwargs=True),
        model.get_submodule(site.modules[-1]).register_forward_hook(after),
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def rows_of(site: Site, batch: Batch, x: Tensor, y: Tensor) -> Rows:
    """One call of the site, its input x and output y of any leading shape, as rows at real tokens."""
    inputs, outputs = (t.detach().reshape(-1, t.shape[-1]).float() for t in (x, y))
    if site.kind == "block":
        outputs = outputs - inputs
    written = "decoder_" if site.stack.startswith("decoder") and "decoder_input_ids" in batch else ""
    mask, ids = batch.get(f"{written}attention_mask"), batch.get(f"{written}input_ids")
    # A tower of pictures beside text has positions of its own, all of them real.
    real = None if mask is None or mask.numel() != len(inputs) else mask.flatten().bool()
    found = {"inputs": inputs, "outputs": outputs}
    if ids is not None and ids.numel() == len(inputs):
        found["ids"] = ids.flatten()
    return found if real is None else {name: t[real] for name, t in found.items()}


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after another."""
    if not parts:
        raise UserError("The site does not run on this data, so there is nothing to explain.")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _file(site: Site, index: int) -> str:
    return f"captured/{site.name}/{index:04d}"
