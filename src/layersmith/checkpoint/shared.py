"""Modules that stand at several places of a model: one object, stored once, and one object again after loading."""

from __future__ import annotations

from typing import Any

from torch import nn

from layersmith.errors import UserError


def checked_pairs(pairs: Any) -> list[list[str]]:
    """The pairs of paths as they are; a UserError when they are anything else."""
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(path, str) and path for path in pair)):
            raise UserError(f"Shared modules are pairs of module paths; this one is {str(pair)[:200]}.")
    return pairs


def share_modules(model: nn.Module, pairs: list[list[str]]) -> None:
    """At the first path of each pair, put the module that stands at the second."""
    for path, other in pairs:
        parent, _, child = path.rpartition(".")
        try:
            siblings, module = model.get_submodule(parent)._modules, model.get_submodule(other)
        except AttributeError as error:
            raise UserError(f"The model has no modules {path!r} and {other!r} that could be one.") from error
        if child not in siblings:
            raise UserError(f"The model has no module at {path!r}.")
        siblings[child] = module


def shared_modules(model: nn.Module) -> list[list[str]]:
    """Pairs of paths at which one and the same module stands, without those inside of such a pair."""
    first: dict[int, str] = {}
    pairs: list[list[str]] = []
    for path, module in model.named_modules(remove_duplicate=False):
        other = first.setdefault(id(module), path)
        if other != path and not any(path.startswith(f"{known}.") for known, _ in pairs):
            pairs.append([path, other])
    return pairs
