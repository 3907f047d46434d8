"""The contract suite: what every part must do, as one small function per check. `layersmith check` runs it."""

from layersmith.check.suite import CHECKS, Result, check, default_config

__all__ = ["CHECKS", "Result", "check", "default_config"]
