"""Docstrings are plain text with lists of arguments; here they become the Markdown that the API page shows."""

from __future__ import annotations

from typing import Any

import griffe
from generate.text import arguments


class PlainDocstrings(griffe.Extension):
    """Hands mkdocstrings every docstring as `generate.text` writes it for the pages of the parts."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = arguments(obj.docstring.value)
