"""Who has a model's modules swapped at the moment: one thread at a time, and nested swaps only in order.

Two swaps that ended in the wrong order, or ran in two threads, would each put back what it found: the other's module.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from layersmith.anatomy.edit import restore
from layersmith.errors import UserError


@dataclass(eq=False)
class Hold:
    """One swap that has begun: its thread, and what stood in the model before."""

    thread: int
    before: dict[str, nn.Module] = field(default_factory=dict)


_holds: WeakKeyDictionary[nn.Module, list[Hold]] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def holding(model: nn.Module) -> Iterator[Hold]:
    """A hold on the model until the context ends, when its `before` is put back."""
    hold = Hold(threading.get_ident())
    with _lock:
        holds = _holds.setdefault(model, [])
        if holds and holds[-1].thread != hold.thread:
            raise UserError(
                f"Another thread has swapped modules of this {type(model).__name__}. A model can be swapped by one "
                f"thread at a time: wait for the other, or give each thread a copy (copy.deepcopy)."
            )
        holds.append(hold)
    try:
        yield hold
    finally:
        _release(model, holds, hold)


def _release(model: nn.Module, holds: list[Hold], hold: Hold) -> None:
    """Put back what this hold and all that began after it found, the latest first."""
    with _lock:
        ended = holds[holds.index(hold) :] if hold in holds else []
        del holds[len(holds) - len(ended) :]
    for one in reversed(ended):
        restore(model, one.before)
    if len(ended) > 1:
        raise UserError(
            "A swap ended before one that began after it. Both have been undone and the model is as it was. End swaps "
            "of one model in the reverse of their order, as nested `with` statements do."
        )
