"""Key/value caches as plain objects: how many bytes they hold, and how to put one back to where it was.

Transformers has a dozen cache classes and layersmith's mixers keep states of their own, so nothing here knows a
class: a cache is whatever objects, lists and dicts can be reached from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from layersmith.contract import kept_bytes

#: What a model calls the cache it returns and takes back: attention, Mamba, RWKV, XLNet.
NAMES = ("past_key_values", "cache_params", "state", "mems")


def cache_bytes(cache: Any) -> int:
    """Bytes of all tensors reachable from a cache, each tensor counted once; counters of tokens are none of it."""
    return kept_bytes(cache_tensors(cache))


def cache_tensors(*roots: Any) -> list[Tensor]:
    """All tensors held by the objects, lists and dicts reachable from `roots`."""
    return [v for root in roots for holder in _holders(root) for v in _values(holder) if isinstance(v, Tensor)]


def cache_of(output: Any) -> dict[str, Any]:
    """The cache a model returned, under the name by which it takes it back; empty when it returned none."""
    found = {name: getattr(output, name, None) for name in NAMES}
    return {name: cache for name, cache in found.items() if cache is not None}


def module_states(model: nn.Module) -> list[Tensor]:
    """Tensors that modules keep as plain attributes, where RecurrentGemma has its states: not weights, not buffers."""
    return [v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor)]


def share_tensors(cache: Any, other: Any, seen: set[int] | None = None) -> None:
    """Let `cache` hold the tensors of `other` wherever it holds one of the same shape and dtype.

    What a step costs depends on shapes alone, so the caches of many variants of one model need the memory of one.
    """
    seen = set() if seen is None else seen
    if type(cache) is not type(other) or isinstance(cache, nn.Module) or id(cache) in seen:
        return
    seen.add(id(cache))
    if isinstance(cache, list):
        for ours, theirs in zip(cache, other, strict=False):
            share_tensors(ours, theirs, seen)
    elif isinstance(cache, dict) or hasattr(cache, "__dict__"):
        table = _table(cache)
        for name, theirs in _table(other).items():
            ours = table.get(name)
            if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
                if (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype) and ours.ndim > 0:
                    table[name] = theirs
            else:
                share_tensors(ours, theirs, seen)


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
