"""`refit`: make a trained model faster or smaller under a budget, and prove what it cost (see `refit.pipeline`)."""

import sys
from types import ModuleType

from layersmith.refit.pipeline import refit

__all__ = ["refit"]


class _Callable(ModuleType):
    """Makes this package callable: `layersmith.refit` is both the room and, for users, the function."""

    __call__ = staticmethod(refit)


sys.modules[__name__].__class__ = _Callable
