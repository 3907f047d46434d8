"""What blocks share: the parts inside are built from their specs, keep states under their own names, add up in cost.

A place for a layer takes the spec of a block, or the entries of a `series` block without a name:

    {"norm": {...}, "mixer": {...}, "ffn_norm": {...}, "ffn": {...}}        {"name": "parallel", "mixer": {...}, ...}

What a part called "2" keeps is in the block's state as "2.k", "2.v" and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.contract import Block, Cost, FeedForward, Mixer, Norm, Operator, State, Streaming, stored_bytes
from layersmith.errors import UserError

Spec = dict[str, Any]
Part = TypeVar("Part", bound=Operator)


class Composed(Block):
    """A block made of parts. A subclass builds them in its constructor and writes `runs` and `forward`."""

    def runs(self) -> Iterator[tuple[Operator, int]]:
        """Every part inside, once, and how often a forward runs it."""
        raise NotImplementedError

    def own_flops(self, tokens: int) -> int:
        """FLOPs over that many tokens of all batches that are no part's."""
        return 0

    def own_unread(self) -> int:
        """Parameters that are no part's and that one token does not read."""
        return 0

    @property
    def causal(self) -> bool:  # type: ignore[override]  # plain attributes where no parts decide
        return all(part.causal for part in self._mixing())

    @property
    def streams(self) -> bool:  # type: ignore[override]
        return all(part.streams for part in self._mixing())

    def _mixing(self) -> Iterator[Streaming]:
        return (part for part in self.modules() if isinstance(part, Streaming) and not isinstance(part, Composed))

    def state_bytes(self, tokens: int, batch: int = 1) -> int:
        """Bytes of all states inside after `tokens` tokens."""
        if not self.streams:
            return 0
        kept = [(part, times) for part, times in self.runs() if isinstance(part, Streaming)]
        return sum(times * part.state_bytes(tokens, batch) for part, times in kept)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        """The parts' own accounts, each as often as it is run."""
        costs = [(part, part.cost(batch, tokens), times) for part, times in self.runs()]
        held = sum(p.numel() for p in self.parameters())
        inside = sum(p.numel() for part, _, _ in costs for p in part.parameters())
        params = held - inside + sum(cost.params for _, cost, _ in costs)
        return Cost(
            params=params,
            active_params=params - sum(c.params - c.active_params for _, c, _ in costs) - self.own_unread(),
            flops=sum(times * cost.flops for _, cost, times in costs) + self.own_flops(batch * tokens),
            state_bytes=self.state_bytes(tokens, batch),
            weight_bytes=stored_bytes(self),
        )

    def check_inputs(self, x: Tensor, state: State | None, mask: Tensor | None) -> None:
        """ValueError for a state given to a block that cannot stream, or a mask that is not a bool (B, T)."""
        if state is not None and not self.streams:
            name = type(self).__name__
            raise ValueError(f"{name} has a mixer inside that cannot continue from a state. Leave the state out.")
        check_mask(self, x, mask)


class Stack(Composed):
    """A block made of layers, to be run in any order: `layers`, and `run`, which runs one under a name."""

    layers: nn.ModuleList

    def build_layers(self, layers: list[Spec], d_model: int) -> nn.ModuleList:
        """The layers of these specs; a ValueError when there are none."""
        if not isinstance(layers, list) or not layers or not all(isinstance(layer, dict) for layer in layers):
            raise ValueError(f"{type(self).__name__}: layers must be a list of specs of layers, not {layers!r}.")
        return nn.ModuleList(layer_of(spec, d_model) for spec in layers)

    def run(
        self, index: int, x: Tensor, state: State | None, mask: Tensor | None, kept: State, name: str = ""
    ) -> Tensor:
        """What layer `index` makes of x; its new state is put into `kept` under the name, by default its index."""
        name = name or str(index)
        x, new = self.layers[index](x, inside(state, name), mask)
        kept.update(under(name, new))
        return x

    def inner(self) -> Iterator[Block]:
        """The layers, with their type."""
        return (layer for layer in self.layers if isinstance(layer, Block))

    def finished(self, kept: State) -> State | None:
        return kept if self.streams else None


def check_mask(block: Block, x: Tensor, mask: Tensor | None) -> None:
    """ValueError for a mask that is not a bool (B, T)."""
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
        raise ValueError(
            f"{type(block).__name__}: mask must be a bool tensor of shape {tuple(x.shape[:2])} (batch, tokens), True "
            f"at real tokens; got {mask.dtype} of shape {tuple(mask.shape)}."
        )


def inside(state: State | None, name: str) -> State | None:
    """What the part of that name keeps in the state of its block."""
    if state is None:
        return None
    start = f"{name}."
    return {key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)} or None


def under(name: str, state: State | None) -> State:
    """A part's state as its block keeps it."""
    return {f"{name}.{key}": tensor for key, tensor in (state or {}).items()}


def layer_of(spec: Spec, d_model: int) -> Block:
    """The block of a spec, a `series` where the spec names none."""
    return part_of(Block, "layer", {"name": "series", **spec}, d_model)


def mixer_of(spec: Spec, d_model: int) -> Mixer:
    return part_of(Mixer, "mixer", spec, d_model)


def ffn_of(spec: Spec, d_model: int, place: str = "ffn") -> FeedForward:
    return part_of(FeedForward, place, spec, d_model)


def norm_of(spec: Spec | None, d_model: int, place: str = "norm") -> nn.Module:
    """The norm of a spec; the identity for None."""
    return nn.Identity() if spec is None else part_of(Norm, place, spec, d_model)


def part_of(family: type[Part], place: str, spec: Spec, d_model: int) -> Part:
    """The operator of a spec, of the family its place asks for and as wide as the block."""
    if not isinstance(spec, dict) or "name" not in spec:
        raise UserError(f"The {place} of a block is a spec such as {{'name': ..., ...}}, not {spec!r}.")
    width = spec.get("d_model", d_model)
    if width != d_model:
        raise UserError(f"The {place} has d_model={width}, the model has {d_model}. Leave it out of the spec.")
    part = catalogue.build({**spec, "d_model": width})
    if not isinstance(part, family):
        raise UserError(
            f"{spec['name']!r} is of the family {part.family!r} and cannot be the {place}, which takes one of the "
            f"family {family.family!r}."
        )
    return part


def operators(*modules: nn.Module | None) -> Iterator[Operator]:
    """Those of the modules that are operators: not the identity that stands for no norm."""
    return (module for module in modules if isinstance(module, Operator))
