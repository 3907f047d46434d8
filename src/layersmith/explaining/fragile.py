"""How much the model leans on a sublayer: the divergence of its predictions when the sublayer always says its mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.swap import swap
from layersmith.explaining.survey import Subject
from layersmith.measuring.divergence import Divergence, Expected, real_positions


def fragility(subject: Subject, means: dict[str, Tensor]) -> dict[str, float]:
    """Site -> divergence over the judge batches with its mean output (D,) in its place."""
    constants = {}
    for name, mean in means.items():
        constants[name] = catalogue.build({"name": "constant", "d_model": len(mean)}).to(mean.device)
        with torch.no_grad():
            constants[name].value.copy_(mean)
    return replaced(subject, constants, "fragility", "replacing by the mean")


def replaced(subject: Subject, parts: Mapping[str, nn.Module], work: str, told: str) -> dict[str, float]:
    """Site -> divergence (see `measuring.divergence`) over the judge batches with that part alone in its place.

    parts  site -> operator. Only the blocks from the site's own on are run, where the model allows it
    work   name in the workspace: finished batches are read back from there
    told   what the progress bar calls it
    """
    done: list[dict[str, Any]] = []
    for index, batch in enumerate(subject.judge):
        name = f"{work}/{index:04d}"
        found = subject.workspace.load_json(name)
        if found is None:
            with evaluating(subject.model):
                found = _on_batch(subject, parts, batch)
            subject.workspace.save_json(name, found)
        done.append(found)
        subject.tell(told, index + 1, len(subject.judge))
    tokens = sum(each["tokens"] for each in done)
    return {site: sum(each["moved"][site] * each["tokens"] for each in done) / tokens for site in parts}


def _on_batch(subject: Subject, parts: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Any]:
    replay = subject.replay
    entering = replay.block_inputs(batch) if replay.exact else None
    teacher = replay.run_from(replay.n_blocks, None if entering is None else entering[-1], batch)
    expected, moved, tokens = Expected(teacher, real_positions(batch)), {}, 0
    for name, part in parts.items():
        site = subject.anatomy.site(name)
        block = replay.blocks.index(subject.anatomy.site(site.block).modules[0])
        distance = Divergence()
        with swap(subject.model, {site: part}, subject.anatomy):
            student = replay.run_from(block, None if entering is None else entering[block], batch)
        distance.add_to(expected, student)
        moved[name], tokens = distance.value, distance.tokens
    return {"tokens": tokens, "moved": moved}
