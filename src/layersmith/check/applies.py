"""Which checks say something about a part: decided by what the part declares, before anything is computed.

A check that does not apply can neither pass nor fail, so it is not run, and no test of the project exists for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layersmith.check.subject import Subject


def why_not(check: str, part: Any) -> str | None:
    """Why a check says nothing about this built part or scheme; None where it does."""
    return CONDITIONS[check](part) if check in CONDITIONS else None


def _crosses_no_tokens(part: Any) -> str | None:
    return "mixes tokens by purpose" if _mixes(part) else None


def _causal(part: Any) -> str | None:
    if not _mixes(part):
        return "token-wise; see that check"
    return None if part.causal else "declared non-causal"


def _masked(part: Any) -> str | None:
    return None if _mixes(part) else "token-wise: a padding token is just another token"


def _streams(part: Any) -> str | None:
    if not _mixes(part):
        return "token-wise: there is no state"
    return None if part.streams else "declares streams=False"


def _can_be_without_state(part: Any) -> str | None:
    if not _mixes(part):
        return "token-wise: there is no state"
    return "streams" if part.streams and "causal" not in part.spec() else None


def _trains(part: Any) -> str | None:
    return None if any(p.requires_grad for p in part.parameters()) else "no trainable parameters"


def _one_graph(part: Any) -> str | None:
    return None if part.compiles else "declares that it is no one graph"


def _has_choices(part: Any) -> str | None:
    found = [k for k, v in part.spec().items() if k != "name" and isinstance(v, str)]
    return None if found else "no string arguments"


def _has_numbers_or_choices(scheme: Any) -> str | None:
    values = [v for k, v in scheme.spec().items() if k != "name" and not isinstance(v, bool)]
    return None if any(isinstance(v, str | int | float) for v in values) else "no numbers or strings to get wrong"


def _mixes(part: Any) -> bool:
    return part.family in Subject.token_mixing


#: By the name of the check; the others apply to every part.
CONDITIONS: dict[str, Callable[[Any], str | None]] = {
    "token_wise": _crosses_no_tokens,
    "causal": _causal,
    "padding_invariance": _masked,
    "chunked": _streams,
    "step_by_step": _streams,
    "padded_decode": _streams,
    "state_rows": _streams,
    "state_bytes": _streams,
    "refuses_state": _can_be_without_state,
    "gradient_reaches_parameters": _trains,
    "compiles": _one_graph,
    "refuses_unknown_choices": _has_choices,
    "refuses_bad_config": _has_numbers_or_choices,
}
