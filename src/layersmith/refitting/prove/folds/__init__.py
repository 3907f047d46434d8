"""Exact rewrites of a whole model: other weights, sometimes other parts, the same function."""
