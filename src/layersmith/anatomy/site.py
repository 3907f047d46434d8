"""What a sublayer's place in a model is: `Site`, and the list of all of them: `Anatomy`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass, field

from layersmith.errors import UserError, suggest


@dataclass(frozen=True)
class Site:
    """An addressable place in a model.

    name     "layers.3.ffn", "layers.3.attn", "layers.3.attn_norm", "layers.3"; encoder-decoder models prefix the
             stack: "decoder.layers.3.cross_attn"
    kind     "ffn" | "mixer" | "norm" | "block": the operator family that may stand here; "head", which `with_head`
             adds: the map to logits, which no family replaces
    modules  module paths in call order. One path: that module is the sublayer. Several (a feed-forward written out
             as fc1, activation, fc2 in the block itself): the sublayer runs from the first one's input to the last
             one's output, so a replacement stands at the first and the others become identities
    layer    0-based index of the block inside its stack
    stack    "" for a model with one stack, otherwise "encoder", "decoder", ...
    d_model  width of what enters and leaves
    causal   whether a token may only read earlier tokens here
    cross    a mixer that reads another sequence (cross-attention)
    calls    how often one forward pass runs it (12 for ALBERT's one shared block)
    outputs  0 when the sublayer returns a tensor, n when it returns a tuple of n whose first entry is the tensor
    as_list  the n outputs come as a list instead of a tuple (OpenAI GPT)
    locked   why no operator may stand here ("" when one may): T5's first attention computes the position bias of all
    """

    name: str
    kind: str
    modules: tuple[str, ...]
    layer: int
    stack: str
    d_model: int
    causal: bool = False
    cross: bool = False
    calls: int = 1
    outputs: int = 0
    as_list: bool = False
    locked: str = ""

    @property
    def role(self) -> str:
        """The last part of the name: "ffn", "attn", "cross_attn", "attn_norm", ...; "block" for a whole block."""
        return "block" if self.kind == "block" else self.name.rsplit(".", 1)[-1]

    @property
    def block(self) -> str:
        """Name of the block this site belongs to ("layers.3")."""
        return self.name if self.kind == "block" else self.name.rsplit(".", 1)[0]


@dataclass(frozen=True)
class Anatomy:
    """All sites of one model, in execution order.

    blocks   for each stack, the module paths of its blocks in execution order
    notes    what was seen and deliberately not made a site, in plain words (never silently skipped)
    """

    sites: tuple[Site, ...]
    blocks: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, key: int | str) -> Site:
        """The site of that name, or the one at that place in the order of execution."""
        return self.site(key) if isinstance(key, str) else self.sites[key]

    def site(self, name: str) -> Site:
        """The site of that name; a UserError with the closest names otherwise."""
        for site in self.sites:
            if site.name == name:
                return site
        raise UserError(f"The model has no site {name!r}. {suggest(name, [s.name for s in self.sites])}")

    def select(self, pattern: str) -> list[Site]:
        """Sites whose name matches a shell pattern such as "layers.*.ffn"; a UserError when none does."""
        found = [s for s in self.sites if fnmatch.fnmatchcase(s.name, pattern)]
        if not found:
            raise UserError(f"No site matches {pattern!r}. {suggest(pattern, [s.name for s in self.sites])}")
        return found

    def of_kind(self, kind: str) -> list[Site]:
        return [s for s in self.sites if s.kind == kind]

    def smallest(self) -> list[Site]:
        """The sites with no site inside: every sublayer, and blocks that were found to have no sublayers."""
        return [s for s in self.sites if s.kind != "block" or not self.in_block(s.name)]

    def in_block(self, block: str) -> list[Site]:
        """The sites inside a block (not the block itself)."""
        return [s for s in self.sites if s.kind != "block" and s.block == block]
