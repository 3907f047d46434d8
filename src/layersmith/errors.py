"""The one exception a user should ever see for something they can put right."""


class UserError(ValueError):
    """Bad input, an unreachable budget, a missing extra: one readable paragraph, saying what to do.

    The command line prints the message and exits with status 2; the traceback is shown only with `--debug`.
    It is a `ValueError`, so Python callers may catch either.
    """


class MissingExtra(UserError, ImportError):
    """An optional dependency is needed. Names the extra and the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it from layersmith's repository: pip install '.[{extra}]'"
        )


def suggest(wrong: str, known: list[str]) -> str:
    """A sentence that lists the closest known names to a misspelt one, or all of them when few."""
    from difflib import get_close_matches

    close = get_close_matches(wrong, known, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    if len(known) <= 24:
        return "Known names: " + ", ".join(sorted(known)) + "."
    return f"There are {len(known)} known names; none is close to {wrong!r}."
