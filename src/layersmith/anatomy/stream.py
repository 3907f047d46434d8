"""How the sublayers of each block read the residual stream and write to it, found on one run of the model.

    x = x + post(sublayer(norm(x)))       norm and post may be missing; several sublayers may read the same x
    x = closing(x + sublayer(x))          Post-LN

Nothing is taken from names: a norm stands where its input and its output are the tensors that the formula has there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layersmith.anatomy.replay import Captured, Replay
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.site import Anatomy, Site

#: Relative error of a token up to which two ways to compute the same thing count as equal in float32.
TOLERANCE = 1e-4


class NoSum(Exception):
    """The stream of the model is no sum of what its sublayers write; the message says what was seen."""


@dataclass(frozen=True)
class Step:
    """One sublayer on the stream.

    norm, post, closing  paths of the norms on what it reads, on what it writes, and on the sum; None: there is none
    sees                 how many sublayers of its block have written to the stream that it reads
    """

    site: Site
    norm: str | None
    post: str | None
    closing: str | None
    sees: int

    def read(self, calls: Mapping[str, Sequence[Captured]]) -> Tensor:
        """What of the stream it reads, before any norm."""
        return calls[self.norm or self.site.modules[0]][0].input

    def added(self, calls: Mapping[str, Sequence[Captured]]) -> Tensor:
        """What it adds to the stream, behind any norm of its own."""
        return calls[self.post or self.site.modules[-1]][0].hidden


def steps_of(replay: Replay, anatomy: Anatomy, batch: dict[str, Tensor]) -> list[list[Step]]:
    """For each block its sublayers on the stream, in order. Raises NoSum where they do not add up to what it gives."""
    if not replay.exact:
        raise NoSum(replay.why)
    found = []
    with evaluating(replay.model):
        entering = replay.block_inputs(batch)
        if entering[0].dtype.itemsize < 4:
            raise NoSum("the model is in half precision, in which its parts do not add up; load it in float32")
        for index, path in enumerate(replay.blocks):
            block = next(s for s in anatomy.of_kind("block") if s.modules[0] == path)
            paths = sorted({path for site in (block, *anatomy.in_block(block.name)) for path in site.modules})
            _, calls = replay.capture(index, entering[index], batch, paths)
            found.append(steps_in(anatomy, block, calls))
    return found


def steps_in(anatomy: Anatomy, block: Site, calls: Mapping[str, Sequence[Captured]]) -> list[Step]:
    """The sublayers of one block on the stream, in order. Raises NoSum where they do not add up to what it gives.

    calls  of the modules of the block and of its sites in one run of it
    """
    inside = anatomy.in_block(block.name)
    if any(len(calls[path]) != 1 for site in (block, *inside) for path in (site.modules[0], site.modules[-1])):
        raise NoSum(f"{block.name} or a sublayer in it does not run exactly once")
    sublayers = [site for site in inside if site.kind in ("ffn", "mixer")]
    norms = {site.modules[0]: calls[site.modules[0]][0] for site in inside if site.kind == "norm"}
    (whole,) = calls[block.modules[0]]
    for closes in (False, True):
        steps, stream = _followed(sublayers, calls, norms, whole.input, closes)
        if steps and _equal(stream, whole.hidden):
            return steps
    raise NoSum(f"what the sublayers of {block.name} write does not add up to what it adds to the stream")


def _followed(
    sublayers: Sequence[Site],
    calls: Mapping[str, Sequence[Captured]],
    norms: dict[str, Captured],
    entering: Tensor,
    closes: bool,
) -> tuple[list[Step], Tensor]:
    """The steps and the stream after the last of them; no steps where a sublayer reads something else."""
    streams, steps = [entering], []
    for site in sublayers:
        read, written = calls[site.modules[0]][0].input, calls[site.modules[-1]][0].hidden
        found = _reads(read, streams, norms)
        if found is None or written.numel() != entering.numel():
            return [], entering
        norm, sees = found
        post = next((path for path, call in norms.items() if path != norm and _equal(call.input, written)), None)
        written = norms[post].hidden if post else written
        stream = streams[-1] + written.reshape(entering.shape)
        closing = next((path for path, call in norms.items() if closes and _equal(call.input, stream)), None)
        streams.append(norms[closing].hidden if closing else stream)
        steps.append(Step(site, norm, post, closing, sees))
    return steps, streams[-1]


def _reads(read: Tensor, streams: list[Tensor], norms: dict[str, Captured]) -> tuple[str | None, int] | None:
    """The norm before a sublayer, and which of the streams it reads; None where it reads none of them."""
    for sees in reversed(range(len(streams))):
        if _equal(read, streams[sees]):
            return None, sees
        for path, call in norms.items():
            if _equal(call.input, streams[sees]) and _equal(read, call.hidden):
                return path, sees
    return None


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether every token has the same in both, up to rounding: one of enormous norm hides none of the others."""
    if a.numel() != b.numel():
        return False
    rounding = max(TOLERANCE, torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    wrong, size = (a.reshape(b.shape) - b).float().norm(dim=-1), b.float().norm(dim=-1)
    return bool((wrong <= rounding * size).all())
