"""Elements from a small function, and the one rule of escaping that charts and templates share.

    tag("text", {"class": "note"}, "a < b")   ->   <text class="note">a &lt; b</text>

Only `Markup` (markupsafe's, which templates return as well) passes unescaped; a string of a result file never does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import markupsafe
from markupsafe import Markup

__all__ = ["Attributes", "Child", "Markup", "attribute", "clean", "escape", "join", "tag"]

# C0 controls other than tab, newline and return are not allowed in XML, and generated text may contain them.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Child = Markup | str | None
Attributes = Mapping[str, object]


def clean(text: str) -> str:
    """Text with the replacement character in place of control characters and halves of surrogate pairs."""
    return _CONTROL.sub("\ufffd", text)


def escape(text: str) -> Markup:
    """Text as HTML: special characters become entities, control characters the replacement character."""
    return markupsafe.escape(clean(text))


def join(children: Iterable[Child]) -> Markup:
    """Children one after another, escaped where they are not markup; None stands for nothing."""
    return Markup("").join(c if isinstance(c, Markup) else escape(c) for c in children if c is not None)


def tag(name: str, attributes: Attributes, *children: Child) -> Markup:
    """One element. Attributes that are None are left out; floats are written with two decimals at most."""
    written = "".join(f' {key}="{attribute(v)}"' for key, v in attributes.items() if v is not None)
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def attribute(value: object) -> Markup:
    """What may stand between the quotes of an attribute."""
    if isinstance(value, float):
        return Markup(f"{value:.2f}".rstrip("0").rstrip("."))
    # A literal line break would be read as a space by an XML reader.
    return Markup(str(escape(str(value))).replace("\n", "&#10;"))
