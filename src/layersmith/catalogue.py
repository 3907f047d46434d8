"""The one explicit table of parts: name -> class, resolved only when asked for.

Importing the catalogue imports no operator, and what it tells about a part is read from the part's file without
running it, so one broken part never breaks the others.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layersmith import evidence
from layersmith.contract import Operator
from layersmith.errors import UserError, suggest
from layersmith.papers import papers

#: Where a part of each family can stand: kinds of sites, and single weight matrices.
STANDS_AT = {
    "ffn": ("ffn", "mixer", "block"),
    "mixer": ("mixer",),
    "norm": ("norm",),
    "block": ("block",),
    "linear": ("weight matrix",),
}


@dataclass(frozen=True)
class Entry:
    """One part. `papers` are ids of papers.toml; `example` is a small config the contract suite builds."""

    target: str
    family: str
    papers: tuple[str, ...]
    example: dict[str, Any]


ENTRIES: dict[str, Entry] = {
    # ffn
    "affine": Entry("layersmith.ffn.affine:Affine", "ffn", (), {"d_model": 32}),
    "bilinear": Entry("layersmith.ffn.bilinear:Bilinear", "ffn", ("P219",), {"d_model": 32, "d_hidden": 64}),
    "carved_moe": Entry(
        "layersmith.ffn.carved_moe:CarvedMoE",
        "ffn",
        ("P354",),
        {"d_model": 32, "d_expert": 8, "n_shared": 2, "n_routed": 6, "k": 2},
    ),
    "constant": Entry("layersmith.ffn.constant:Constant", "ffn", (), {"d_model": 32}),
    "glu": Entry("layersmith.ffn.glu:GLU", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "gr_kan": Entry("layersmith.ffn.gr_kan:GRKAN", "ffn", ("P034",), {"d_model": 32, "d_hidden": 64}),
    "identity": Entry("layersmith.ffn.identity:Identity", "ffn", (), {"d_model": 32}),
    "low_rank_affine": Entry("layersmith.ffn.low_rank_affine:LowRankAffine", "ffn", (), {"d_model": 32, "rank": 8}),
    "mlp": Entry("layersmith.ffn.mlp:MLP", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "poly_norm": Entry("layersmith.ffn.poly_norm:PolyNorm", "ffn", ("P007",), {"d_model": 32, "d_hidden": 64}),
    "poly_relu": Entry("layersmith.ffn.poly_relu:PolyReLU", "ffn", ("P007",), {"d_model": 32, "d_hidden": 64}),
    "sigma_moe": Entry(
        "layersmith.ffn.sigma_moe:SigmaMoE",
        "ffn",
        ("P291",),
        {"d_model": 32, "d_expert": 16, "n_experts": 6, "k": 2},
    ),
    "structured": Entry(
        "layersmith.ffn.structured:StructuredFFN",
        "ffn",
        ("P294",),
        {"d_model": 32, "d_hidden": 64, "structure": "block_dense", "rank": 16, "blocks": 4},
    ),
    "topk_glu": Entry(
        "layersmith.ffn.topk_glu:TopKGLU", "ffn", ("P382", "P020"), {"d_model": 32, "d_hidden": 64, "k": 16}
    ),
    "topk_mlp": Entry("layersmith.ffn.topk_mlp:TopKMLP", "ffn", ("P020",), {"d_model": 32, "d_hidden": 64, "k": 16}),
    "zero": Entry("layersmith.ffn.zero:Zero", "ffn", (), {"d_model": 32}),
    # mixer
    "deltanet": Entry("layersmith.mixer.deltanet:DeltaNet", "mixer", ("P028",), {"d_model": 32, "n_heads": 4}),
    "linear_attention": Entry(
        "layersmith.mixer.linear_attention:LinearAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "feature_map": "hedgehog", "rope_theta": 10000.0},
    ),
    "softmax_attention": Entry(
        "layersmith.mixer.softmax:SoftmaxAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0, "qk_norm": True},
    ),
    # linear
    "block_dense": Entry(
        "layersmith.linear.block_dense:BlockDense",
        "linear",
        ("P294",),
        {"d_in": 32, "d_out": 48, "rank": 16, "blocks": 4},
    ),
    "block_shuffle": Entry(
        "layersmith.linear.block_shuffle:BlockShuffle",
        "linear",
        ("P294",),
        {"d_in": 32, "d_out": 48, "blocks": 4},
    ),
    "linear": Entry("layersmith.linear.dense:Dense", "linear", (), {"d_in": 32, "d_out": 48}),
    "low_rank": Entry("layersmith.linear.low_rank:LowRank", "linear", ("P294",), {"d_in": 32, "d_out": 48, "rank": 8}),
    "quantized": Entry(
        "layersmith.linear.quantized:QuantizedLinear",
        "linear",
        ("P220",),
        {"d_in": 32, "d_out": 48, "bits": 3, "group_size": 16, "bias": True},
    ),
    # norm
    "dyt": Entry("layersmith.norm.dyt:DyT", "norm", ("P155",), {"d_model": 32}),
    "layer_norm": Entry("layersmith.norm.layer_norm:LayerNorm", "norm", (), {"d_model": 32}),
    "rms_norm": Entry("layersmith.norm.rms_norm:RMSNorm", "norm", (), {"d_model": 32}),
}


def entry(name: str) -> Entry:
    """The entry of that name; a UserError with the closest names otherwise."""
    if name not in ENTRIES:
        raise UserError(f"The catalogue has no part {name!r}. {suggest(name, list(ENTRIES))}")
    return ENTRIES[name]


def resolve(name: str, trust_local_code: bool = False) -> type[Operator]:
    """The class behind a catalogue name, or behind "package.module:Class" when the caller trusts that code."""
    if ":" in name:
        if not trust_local_code:
            raise UserError(
                f"The part {name!r} is not in the catalogue: it is Python code of its own, and importing it runs it. "
                f"Pass trust_local_code=True (or --trust-code) if you trust it."
            )
        target = name
    else:
        target = entry(name).target
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"Cannot import {module_name!r} for the part {name!r}: {error}.") from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Operator)):
        raise UserError(f"{target!r} is not an operator class (a subclass of a layersmith.contract family).")
    return found


def build(spec: dict[str, Any], trust_local_code: bool = False) -> Any:
    """A freshly initialised part from its spec, e.g. {"name": "glu", "d_model": 256, "d_hidden": 512}."""
    if "name" not in spec:
        raise UserError(f"A spec needs a 'name'; this one has {sorted(spec)}.")
    config = {k: v for k, v in spec.items() if k != "name"}
    part = resolve(spec["name"], trust_local_code)
    try:
        return part(**config)
    except TypeError as error:
        raise UserError(f"The part {spec['name']!r} does not take this configuration: {error}.") from error
    except ValueError as refused:
        raise UserError(str(refused)) from refused


def documentation(name: str) -> str:
    """The text that opens the part's file: idea, equation, shapes, paper, differences from the paper."""
    module_name = entry(name).target.partition(":")[0]
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        raise UserError(f"The part {name!r} has no source file: {module_name!r} cannot be found.")
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def summary(name: str) -> str:
    """The first sentence of the documentation, on one line."""
    first = " ".join(documentation(name).partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", first)[0]


def search(query: str) -> list[str]:
    """The parts in which every word of the query occurs: in name, family, summary, titles and ideas of papers."""
    words = query.lower().split()
    return [name for name in ENTRIES if all(word in _text(name) for word in words)]


def _text(name: str) -> str:
    found = entry(name)
    read = [papers()[key] for key in found.papers]
    about = [f"{paper.id} {paper.title} {paper.mechanism}" for paper in read]
    return " ".join([name, found.family, found.target, summary(name), *about]).lower()


def as_json() -> list[dict[str, Any]]:
    """One record for each part: name, family, class, one-line summary, where it can stand, paper ids, evidence."""
    return [
        {
            "name": name,
            "family": found.family,
            "class": found.target,
            "summary": summary(name),
            "stands_at": list(STANDS_AT[found.family]),
            "papers": list(found.papers),
            "evidence": {"level": evidence.of(name).level, "rungs": list(evidence.of(name).rungs)},
        }
        for name, found in ENTRIES.items()
    ]
