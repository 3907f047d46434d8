"""The templates of the page. They escape everything that is not markup, and a value they miss is an error."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from layersmith.report.markup import Markup, clean


def fill(template: str, values: Mapping[str, object]) -> Markup:
    """A template with its values."""
    return Markup(_environment().get_template(template).render(values))


def macros(template: str) -> Any:
    """The macros of a template, as functions that return markup: `macros("tables.html").plain(head, rows)`."""
    return _environment().get_template(template).module


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("layersmith.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_written,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _written(value: object) -> object:
    """What stands on the page for a value: nothing for None, and no characters that HTML does not allow."""
    if value is None:
        return ""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
