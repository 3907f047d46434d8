"""HTML and SVG from small functions that escape everything by default.

    tag("p", {"class": "note"}, "a < b")   ->   <p class="note">a &lt; b</p>

Only `Markup`, which `tag` and `join` return, passes unescaped; a plain string from a result file never does.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

_VOID = {"br", "hr", "input", "meta", "wbr"}
# C0 controls other than tab, newline and return are not allowed in XML, and generated text may contain them.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Markup(str):
    """Text that is HTML already. Make it with `tag` or `join`; call it directly only on a constant."""

    __slots__ = ()


Child = Markup | str | None
Attributes = Mapping[str, object]


def escape(text: str) -> Markup:
    """Text as HTML: special characters become entities, control characters the replacement character."""
    return Markup(html.escape(_CONTROL.sub("\ufffd", text)))


def join(children: Iterable[Child], between: str = "") -> Markup:
    """Children one after another, escaped where they are not markup; None stands for nothing."""
    parts = (c if isinstance(c, Markup) else escape(c) for c in children if c is not None)
    return Markup(escape(between).join(parts))


def tag(name: str, attributes: Attributes, *children: Child) -> Markup:
    """One element. Attributes that are None are left out; floats are written with two decimals at most."""
    written = "".join(f' {key}="{_value(v)}"' for key, v in attributes.items() if v is not None)
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    # A literal line break in an attribute would be read as a space by an XML reader.
    return escape(str(value)).replace("\n", "&#10;")
