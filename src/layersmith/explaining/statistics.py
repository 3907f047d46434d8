"""The map of a model: which sublayers are linear, fragile, low-rank, sink-makers. All sites in one pass.

The blocks are run one after the other over the whole text, so memory holds the activations of one block. What each
statistic is stands in `measures/`; a figure that does not exist (attention weights of a model without attention) is
null, never guessed.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy import Site
from layersmith.explaining.block import BlockRows, Entering, entering, look
from layersmith.explaining.fragile import fragility
from layersmith.explaining.measures.linear import linearity, procrustes
from layersmith.explaining.measures.massive import massive
from layersmith.explaining.measures.positions import shares
from layersmith.explaining.measures.ranks import eigenvalues, hard_rank, soft_rank
from layersmith.explaining.measures.sinks import sinks
from layersmith.explaining.sections import Column, Section, heat_map, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings

Figures = dict[str, Any]

#: What is said of a block, and of a feed-forward or mixer in it: key, title, meaning, logarithmic.
OF_BLOCK = (
    ("linearity", "block linear", "R² of the best affine map from what enters the block to what leaves it", False),
    ("linearity_of_update", "update linear", "the same for what the block adds to the stream", False),
    ("procrustes", "turned only", "similarity of the streams before and after, up to rotation and scale", False),
    ("position", "position", "share of the variance of the stream that depends on the position alone", False),
    ("massive_ratio", "max/median", "largest entry of the stream over the median one", True),
)
OF_SUBLAYER = (
    ("linearity", "linear", "R² of the best affine map, token by token, from its inputs to its outputs", False),
    ("fragility", "fragile", "divergence of the predictions when it always gives its mean output", True),
    ("soft_rank_share", "rank used", "soft rank of its hidden vectors as a share of their width", False),
    ("first_received", "first sink", "attention that the first position receives, mean over heads and queries", False),
    ("secondary_sinks", "other sinks", "share of later positions that receive more than the threshold", False),
)


class Statistics(Survey):
    name = "statistics"
    summary = "The map of the model: which sublayers are linear, fragile, low-rank, sink-makers."
    papers = (
        "2405.12250",
        "existence-behaviour-secondary-attention-sinks",
        "hidden-dynamics-massive-activations-transformer",
        "spectral-scaling-laws-language-models",
        "uncovering-hidden-geometry-transformers-disentangling",
    )
    settings: ClassVar[Settings] = {"sink": 0.3}

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        found, means = _statistics(subject, settings["sink"])
        for site, moved in fragility(subject, means).items():
            found[site]["fragility"] = moved
        return {"sites": found, "sections": _sections(subject, found, settings["sink"])}


def _statistics(subject: Subject, threshold: float) -> tuple[dict[str, Figures], dict[str, Tensor]]:
    """Site -> its figures; sublayer -> its mean output (D,). Finished blocks are read back."""
    found: dict[str, Figures] = {}
    means: dict[str, list[float]] = {}
    into: Entering | None = None
    for index, path in enumerate(subject.replay.blocks):
        block = next(s for s in subject.anatomy.of_kind("block") if s.modules[0] == path)
        inside = [s for s in subject.anatomy.in_block(block.name) if s in subject.sites and s.kind != "norm"]
        saved = subject.workspace.load_json(f"blocks/{index:04d}")
        if saved is not None or not (inside or block in subject.sites):
            into = None
        else:
            seen = look(subject, index, [block, *inside], entering(subject, index) if into is None else into)
            into = seen.leaving
            saved = _figures(subject, block, inside, seen, threshold)
            subject.workspace.save_json(f"blocks/{index:04d}", saved)
        if saved is not None:
            found |= saved["figures"]
            means |= saved["means"]
        subject.tell("looking at blocks", index + 1, subject.replay.n_blocks)
    return found, {name: torch.tensor(mean, device=subject.device) for name, mean in means.items()}


def _figures(subject: Subject, block: Site, inside: list[Site], seen: BlockRows, threshold: float) -> Figures:
    """What one block and its sublayers come to, as JSON."""
    figures = {block.name: _of_block(subject, seen, seen.rows[block.name])}
    for site in inside:
        figures[site.name] = _of_sublayer(seen, site, threshold)
    means = {s.name: seen.rows[s.name]["outputs"].mean(0).tolist() for s in inside if not s.locked}
    return {"figures": figures, "means": means}


def _of_block(subject: Subject, seen: BlockRows, rows: dict[str, Tensor]) -> Figures:
    before, update = rows["inputs"], rows["outputs"]
    after = before + update
    largest = massive(after)
    for place in largest["where"]:
        place["token"] = _token(subject, rows, place["row"])
    return {
        "kind": "block",
        "rows": len(before),
        "linearity": linearity(before, after),
        "linearity_of_update": linearity(before, update),
        "procrustes": procrustes(before, after),
        "position": _position(subject, seen),
        "massive_ratio": largest["ratio"],
        "massive": largest["massive"],
        "largest": largest["where"],
    }


def _of_sublayer(seen: BlockRows, site: Site, threshold: float) -> Figures:
    rows = seen.rows[site.name]
    figures: Figures = {
        "kind": site.kind,
        "rows": len(rows["inputs"]),
        "linearity": linearity(rows["inputs"], rows["outputs"]),
        "largest_output": float(rows["outputs"].abs().max()),
    }
    if site.name in seen.latent:
        values, width = eigenvalues(seen.latent[site.name]), seen.latent[site.name].shape[1]
        figures |= {"hidden": width, "hard_rank": hard_rank(values), "soft_rank": soft_rank(values)}
        figures["soft_rank_share"] = figures["soft_rank"] / width
    if seen.received.get(site.name):
        found = [sinks(scores, threshold) for scores in seen.received[site.name]]
        figures["first_received"] = _mean([each["first"] for each in found])
        figures["secondary_sinks"] = _mean([each["secondary"] for each in found])
    return figures


def _position(subject: Subject, seen: BlockRows) -> float | None:
    """Of rows of one length without padding, on which positions and contexts cross; None where there are no two.

    Without the first token, which many models use as a sink.
    """
    streams = [t for t in seen.leaving if t is not None]
    kept = [t for t in streams if t.shape[1] == streams[0].shape[1]]
    padded = any("attention_mask" in batch and not batch["attention_mask"].all() for batch in subject.fit)
    if padded or not kept or sum(len(t) for t in kept) < 2 or kept[0].shape[1] < 3:
        return None
    return shares(torch.cat(kept)[:, 1:])["position"]


def _token(subject: Subject, rows: dict[str, Tensor], row: int) -> str | None:
    if "ids" not in rows or subject.tokenizer is None:
        return None
    return subject.tokenizer.decode([int(rows["ids"][row])])


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def _sections(subject: Subject, found: dict[str, Figures], threshold: float) -> list[Section]:
    """The map, a row a block, and the largest entries of the stream in words."""
    blocks = [s for s in subject.anatomy.of_kind("block") if s.name in found]
    roles = list(dict.fromkeys(s.role for s in subject.anatomy if s.name in found and s.kind != "block"))
    columns = [Column(title, meaning, log) for _, title, meaning, log in OF_BLOCK]
    columns += [Column(f"{role} {t}", f"{role}: {m}", log) for role in roles for _, t, m, log in OF_SUBLAYER]
    rows = []
    for block in blocks:
        values = [found[block.name].get(key) for key, *_ in OF_BLOCK]
        for role in roles:
            values += [found.get(f"{block.name}.{role}", {}).get(key) for key, *_ in OF_SUBLAYER]
        rows.append((block.name, values))
    drawn = heat_map(
        "The map of the model",
        columns,
        rows,
        "One row a block, one column a statistic; the darker, the larger within its column. Linear parts could be "
        "matrices, parts that are not fragile could be constants, and a hidden layer that uses few of its directions "
        f"could be narrower. A position counts as a sink that receives more than {threshold:g} of the attention.",
    )
    largest = [
        [block.name, f"{place['value']:.4g}", place["column"], repr(place["token"]) if place["token"] else "–"]
        for block in blocks
        for place in found[block.name]["largest"][:1]
    ]
    counted = sum(found[block.name]["massive"] for block in blocks)
    entries = table(
        "The largest entry of the stream",
        ["after", "value", "channel", "at the token"],
        largest,
        f"{counted} entries, over all blocks, are massive: at least 1000 times the median one of their block.",
    )
    return [drawn, entries]
