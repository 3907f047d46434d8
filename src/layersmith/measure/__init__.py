"""Quality and cost of models, measured: nothing here knows what a candidate or a method is.

`layersmith.measure(model, against=original, ...)` measures one model beside another in one run (see
`measure.compare`); its parts stand alone: `measure.latency`, `.cost`, `.quality`, `.generation`, `.zeroshot`.
"""

import sys
from types import ModuleType

from layersmith.measure.compare import measure

__all__ = ["measure"]


class _Callable(ModuleType):
    """Makes this package callable: `layersmith.measure` is both the room and, for users, the function."""

    __call__ = staticmethod(measure)


sys.modules[__name__].__class__ = _Callable
