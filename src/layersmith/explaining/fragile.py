"""How much the model leans on a sublayer: the divergence of its predictions when the sublayer always says its mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.anatomy import Site
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.swap import swap
from layersmith.explaining.survey import Subject
from layersmith.measuring.divergence import Divergence, real_positions


def fragility(subject: Subject, means: dict[str, Tensor]) -> dict[str, float]:
    """Site -> divergence (see `measuring.divergence`) over the judge batches, with its mean output in its place.

    means  site -> (D,). Finished batches are read back from the workspace. Only the blocks from the site's own on are
    run, where the model allows it.
    """
    sites = [subject.anatomy.site(name) for name in means]
    done: list[dict[str, Any]] = []
    for index, batch in enumerate(subject.judge):
        name = f"fragility/{index:04d}"
        found = subject.workspace.load_json(name)
        if found is None:
            with evaluating(subject.model):
                found = _on_batch(subject, sites, means, batch)
            subject.workspace.save_json(name, found)
        done.append(found)
        subject.tell("replacing by the mean", index + 1, len(subject.judge))
    tokens = sum(each["tokens"] for each in done)
    return {site: sum(each["moved"][site] * each["tokens"] for each in done) / tokens for site in means}


def _on_batch(
    subject: Subject, sites: list[Site], means: dict[str, Tensor], batch: dict[str, Tensor]
) -> dict[str, Any]:
    replay = subject.replay
    entering = replay.block_inputs(batch) if replay.exact else None
    teacher = replay.run_from(replay.n_blocks, None if entering is None else entering[-1], batch)
    moved, tokens = {}, 0
    for site in sites:
        constant = catalogue.build({"name": "constant", "d_model": site.d_model}).to(means[site.name].device)
        with torch.no_grad():
            constant.value.copy_(means[site.name])
        block = replay.blocks.index(subject.anatomy.site(site.block).modules[0])
        distance = Divergence()
        with swap(subject.model, {site: constant}, subject.anatomy):
            student = replay.run_from(block, None if entering is None else entering[block], batch)
        distance.add(teacher, student, real_positions(batch))
        moved[site.name], tokens = distance.value, distance.tokens
    return {"tokens": tokens, "moved": moved}
