"""The contract suite: what every part must do, as one small function per check. `layersmith check` runs it."""

from layersmith.check.suite import CHECKS, SCHEME_CHECKS, Result, applicable, check, checks_for, default_config

__all__ = ["CHECKS", "SCHEME_CHECKS", "Result", "applicable", "check", "checks_for", "default_config"]
