"""Key/value caches as plain objects: how many bytes they hold, and how to put one back to where it was.

Transformers has a dozen cache classes and layersmith's mixers keep states of their own, so nothing here knows a
class: a cache is whatever objects, lists and dicts can be reached from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn


def kept(output: Any) -> tuple[str, Any]:
    """The cache that a forward pass returned, and the argument it goes back in as; ("", None) if it returned none."""
    for name in ("past_key_values", "cache_params", "state"):
        if getattr(output, name, None) is not None:
            return name, getattr(output, name)
    return "", None


def cache_bytes(cache: Any) -> int:
    """Bytes of all tensors reachable from a cache, each tensor counted once."""
    tensors = {id(value): value for holder in _holders(cache) for value in _values(holder) if isinstance(value, Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def rewinder(*roots: Any) -> Callable[[], None]:
    """A function that puts every cache reachable from `roots` back to how it is now.

    It restores references, not contents: a cache that grows by concatenation or keeps a new state per step (all the
    default ones) comes back exactly, in a few microseconds. A cache that writes in place (a static one) comes back
    to the same length; its last slot is overwritten by the next step. So is a state of fixed size (Mamba's, RWKV's):
    a step from another state takes as long.
    """
    holders = list({id(h): h for root in roots for h in _holders(root)}.values())
    before = [list(h) if isinstance(h, list) else dict(_table(h)) for h in holders]

    def rewind() -> None:
        for holder, content in zip(holders, before, strict=True):
            if isinstance(holder, list):
                holder[:] = content
            else:
                table = _table(holder)
                table.clear()
                table.update(content)

    return rewind


def _holders(root: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Every list, dict or object with attributes reachable from `root`, `root` included; modules are not entered."""
    seen = set() if seen is None else seen
    if id(root) in seen or isinstance(root, Tensor | nn.Module | type | str | bytes) or callable(root):
        return
    seen.add(id(root))
    if isinstance(root, list | dict) or hasattr(root, "__dict__"):
        yield root
    elif not isinstance(root, tuple | set):
        return
    for value in _values(root):
        yield from _holders(value, seen)


def _values(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, list | tuple | set) else list(_table(holder).values())


def _table(holder: Any) -> dict[Any, Any]:
    return holder if isinstance(holder, dict) else vars(holder)
