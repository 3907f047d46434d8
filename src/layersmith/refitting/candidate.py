"""A candidate: one alternative for one or more sites, with everything measured about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy.edit import Edit, Replacement, build_module
from layersmith.cost import FIELDS, Cost
from layersmith.refitting.cleared import Missing
from layersmith.runs.workspace import Workspace


@dataclass
class Candidate:
    """What the library keeps about one alternative (JSON); its weights lie beside it as safetensors.

    sites        names of the sites it decides (a dropped attention decides its own norm too)
    local_error  relative squared error of the sublayer's contribution on holdout activations (1.0 = zero output)
    divergence   of the original with this one change from the original (`measuring.divergence`); None while not scored
    agreement    share of tokens whose most likely next token stays the same
    scored_on    share of the search text that both rest on: 1.0, or that of a first look
    cost         of the decided sites together, with the candidate in place; None while not measured
    refused      why it is not offered to the search, in plain words; None when it is
    """

    id: str
    sites: list[str]
    method: str
    settings: dict[str, Any]
    edits: list[dict[str, Any]]
    local_error: float
    distilled_steps: int = 0
    seconds: float = 0.0
    refused: str | None = None
    divergence: float | None = None
    agreement: float | None = None
    scored_on: float | None = None
    cost: Cost | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it as one flat object; the figures of a cost that was not measured are null."""
        cost = dict.fromkeys(FIELDS.values()) if self.cost is None else self.cost.to_json()
        return {**{k: v for k, v in asdict(self).items() if k != "cost"}, **cost}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Candidate:
        """The candidate that `to_json` wrote."""
        own = {k: v for k, v in data.items() if k not in FIELDS.values()}
        return Candidate(**own, cost=None if data["params"] is None else Cost.from_json(data))

    @property
    def site(self) -> str:
        """The site it was built at (for a whole block, the block's name, which is none of `sites`)."""
        return self.id.split("/", 1)[0]


@dataclass
class Library:
    """All candidates of a run and where their weights are kept; `device` is where their modules are put.

    methods  whose candidates may be used. The floors are built and reported in any case, to compare with.
    """

    workspace: Workspace
    methods: list[str]
    candidates: dict[str, Candidate] = field(default_factory=dict)
    device: torch.device | str = "cpu"

    def replacement(self, candidate: Candidate) -> Replacement:
        """The candidate's edits with freshly built modules and their stored weights, in eval mode."""
        tensors = self.workspace.load_tensors(f"library/{candidate.id}")
        if tensors is None:
            raise Missing(f"library/{candidate.id}")
        return [(edit, module.to(self.device)) for edit, module in unpack(candidate.edits, tensors)]

    def at(self, site: str) -> list[Candidate]:
        """Candidates built at this site."""
        return [c for c in self.candidates.values() if c.site == site]

    def usable(self) -> list[Candidate]:
        """Candidates that a model may be made of: by a method that was asked for, and not refused."""
        return [c for c in self.candidates.values() if c.refused is None and c.method in self.methods]

    def offered(self) -> list[Candidate]:
        """Candidates the search may choose from: the usable ones that were scored."""
        return [c for c in self.usable() if c.divergence is not None]


def disjoint(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of them, in this order, that decide no site which an earlier one decides."""
    taken: set[str] = set()
    found = []
    for candidate in candidates:
        if not taken & set(candidate.sites):
            taken |= set(candidate.sites)
            found.append(candidate)
    return found


def pack(replacement: Replacement) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """A replacement as JSON edits plus one flat dict of tensors, keyed "0.weight" by position.

    What a later edit replaces of an earlier one's module is not kept.
    """
    edits = [edit for edit, _ in replacement]
    tensors = {
        f"{i}.{k}": v
        for i, (_, module) in enumerate(replacement)
        for k, v in module.state_dict().items()
        if not _is_replaced(edits, i, k)
    }
    return [edit.to_json() for edit in edits], tensors


def unpack(edits: list[dict[str, Any]], tensors: dict[str, Tensor]) -> Replacement:
    """Inverse of `pack`."""
    replacement: Replacement = []
    known = [Edit.from_json(data) for data in edits]
    for i, edit in enumerate(known):
        with _Unfilled():
            module: nn.Module = build_module(edit)
        prefix = f"{i}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        found = module.load_state_dict(state, strict=False)
        wrong = [*found.unexpected_keys, *(key for key in found.missing_keys if not _is_replaced(known, i, key))]
        if wrong:
            raise RuntimeError(f"what is stored for {edit.path} does not fit it: {', '.join(wrong)}")
        floats = [v for v in state.values() if v.is_floating_point()]
        if floats:
            module.to(floats[0].dtype)
        replacement.append((edit, module.eval()))
    return replacement


class _Unfilled(TorchFunctionMode):
    """Weights that come from a file are not drawn first, which takes longer than reading them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def _is_replaced(edits: list[Edit], index: int, key: str) -> bool:
    """Whether a tensor of the module of one edit is gone once a later edit has put its part there."""
    name = f"{edits[index].inside}.{key}"
    return any(name.startswith(f"{later.path}.") for later in edits[index + 1 :])


def decided_sites(anatomy: Anatomy, site: Site, replacement: Replacement) -> list[str]:
    """The sites a replacement decides: its own, every site that it changes, and all sublayers of a block."""
    names = [] if site.kind == "block" else [site.name]
    edited = {edit.path for edit, _ in replacement}
    for other in anatomy.sites:
        if other.kind == "block" or other.name in names:
            continue
        inside_block = any(_within(m, path) for m in other.modules for path in edited if _is_block(anatomy, path))
        if inside_block or any(_within(path, m) for m in other.modules for path in edited):
            names.append(other.name)
    return names or [site.name]  # a block without sublayers is one itself


def _within(path: str, block: str) -> bool:
    return path == block or path.startswith(block + ".")


def _is_block(anatomy: Anatomy, path: str) -> bool:
    return any(path in blocks for blocks in anatomy.blocks.values())
