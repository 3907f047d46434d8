"""A run that could change nothing is stopped, with the reasons, instead of measured to the end."""

from __future__ import annotations

from layersmith.anatomy import Anatomy, Site
from layersmith.errors import UserError
from layersmith.refitting import methods
from layersmith.refitting.candidate import Library


def check_patterns(patterns: list[str], anatomy: Anatomy, names: list[str]) -> None:
    """Raise a UserError for a pattern none of whose sites is of a kind that one of these methods works on.

    patterns, names  of sites, as given, and of the methods of the run
    """
    for pattern in patterns:
        sites = anatomy.select(pattern)
        if all(_why_not(site, name) for site in sites for name in names):
            reasons = {_why_not(site, name): name for site in sites for name in names}
            raise UserError(
                f"Nothing can be changed at {pattern!r} ({_listed([s.name for s in sites])}): "
                f"{_listed([f'{name}: {why}' for why, name in reasons.items()])}. Name other sites, or other methods."
            )


def check_library(library: Library, refusals: dict[str, dict[str, str]]) -> None:
    """Raise a UserError when no candidate may be used, nor followed by a format in a chain that was asked for.

    refusals  {site: {method: reason}} of what was not built
    """
    wanted = methods.steps(library.methods)
    if any(c.refused is None and c.method in wanted for c in library.candidates.values()):
        return
    found = [pair for at_site in refusals.values() for pair in at_site.items()]
    found += [(c.method, str(c.refused)) for c in library.candidates.values()]
    reasons = dict.fromkeys(f"{name}: {why}" for name, why in found if name in library.methods)
    raise UserError(
        f"None of the methods {_listed(library.methods)} can change anything in this model: "
        f"{_listed(list(reasons)) or 'none of them works on the chosen sites'}. Name other methods, or other sites."
    )


def _why_not(site: Site, name: str) -> str | None:
    kinds = methods.get(name).kinds
    return site.locked or (None if site.kind in kinds else f"it works on {' and '.join(kinds)} sites")


def _listed(items: list[str], most: int = 6) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
