"""Who has a model's modules swapped at the moment: one thread at a time, and nested swaps only in order.

Two swaps that ended in the wrong order, or ran in two threads, would each put back what it found: the other's module.
What counts are the modules, not the object they were reached by: a model, its body (`model.model`), what torch.compile
made of it and another model with the same layers are swapped one inside the other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from layersmith.anatomy.edit import restore
from layersmith.anatomy.site import Anatomy
from layersmith.errors import UserError


@dataclass(eq=False)
class Hold:
    """One swap that has begun: of which model, with which sites, in which thread, and what stood there before.

    modules  ids of all modules of the model, as it was when the swap began
    """

    model: nn.Module
    anatomy: Anatomy
    thread: int
    modules: frozenset[int]
    before: dict[str, nn.Module] = field(default_factory=dict)

    def touches(self, other: Hold) -> bool:
        """Whether both are swaps of the same modules."""
        return not self.modules.isdisjoint(other.modules)


#: In the order in which they began.
_active: list[Hold] = []
_lock = threading.Lock()


def sites_held(model: nn.Module) -> Anatomy | None:
    """The sites of the model as its latest swap knows them, while there is one.

    What has been swapped need not be found again: a sublayer that is zero does not show in the residual stream.
    """
    with _lock:
        return next((hold.anatomy for hold in reversed(_active) if hold.model is model), None)


@contextmanager
def holding(model: nn.Module, anatomy: Anatomy) -> Iterator[Hold]:
    """A hold on the model until the context ends, when its `before` is put back."""
    hold = Hold(model, anatomy, threading.get_ident(), frozenset(map(id, model.modules())))
    with _lock:
        if any(other.touches(hold) and other.thread != hold.thread for other in _active):
            raise UserError(
                f"Another thread has swapped modules of this {type(model).__name__}. A model can be swapped by one "
                f"thread at a time: wait for the other, or give each thread a copy (copy.deepcopy)."
            )
        _active.append(hold)
    try:
        yield hold
    finally:
        _release(hold)


def _release(hold: Hold) -> None:
    """Put back what this hold, and all of the same modules that began after it, found, the latest first."""
    with _lock:
        since = _active[_active.index(hold) :] if hold in _active else []
        ended = [one for one in since if one.touches(hold)]
        for one in ended:
            _active.remove(one)
    for one in reversed(ended):
        restore(one.model, one.before)
    if len(ended) > 1:
        raise UserError(
            "A swap ended before one that began after it. Both have been undone and the model is as it was. End swaps "
            "of one model in the reverse of their order, as nested `with` statements do."
        )
