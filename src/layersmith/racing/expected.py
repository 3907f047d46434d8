"""What a race is expected to show, and what came of it: held, did not hold, or not distinguishable.

A race file says it in one of three ways:

    expect: {entrant: deltanet, beats: [linear_attention]}              better than each of them
    expect: {entrant: dyt, matches: [rms_norm], within: 0.02}           worse by at most that share of their score
    expect: {entrant: softmax, reaches: oracle, within: 0.05}           worse than a yardstick by at most that share
    split: longer                                                       judged by the scores on longer examples

Every difference is paired over seeds, and its interval the one of the verdict, shared out over the rivals. A claim held
where all intervals lie on its side, and did not hold where one lies wholly on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layersmith.errors import UserError, suggest

HELD, NOT_HELD, SAME, FEW = "held", "did not hold", "not distinguishable", "too few seeds"
WAYS = ("beats", "matches", "reaches")
ENTRIES = ("entrant", *WAYS, "within", "split")


def check_expected(expect: dict[str, Any], entrants: list[str]) -> None:
    """Raise a UserError unless the entry says one thing of one entrant."""
    for key in expect:
        if key not in ENTRIES:
            raise UserError(f"expect in a race file has no entry {key!r}. {suggest(str(key), list(ENTRIES))}")
    ways = [way for way in WAYS if way in expect]
    if len(ways) != 1:
        raise UserError(f"expect in a race file says one of {', '.join(WAYS)}, not {len(ways)} of them.")
    rivals = expect[ways[0]] if ways[0] != "reaches" else []
    if not isinstance(rivals, list) or (ways[0] != "reaches" and not rivals):
        raise UserError(f"{ways[0]} in expect is a list of entrants, not {rivals!r}.")
    for name in (expect.get("entrant"), *rivals):
        if name not in entrants:
            raise UserError(f"expect names {name!r}, which does not race. {suggest(str(name), entrants)}")
    within = expect.get("within", 0.0)
    if isinstance(within, bool) or not isinstance(within, int | float) or not 0 <= within < 1:
        raise UserError(f"within in expect is a share from 0 to 1, not {within!r}.")
    if expect.get("split", "test") not in ("test", "longer"):
        raise UserError(f"split in expect is test or longer, not {expect['split']!r}.")


def came_of_it(
    expect: dict[str, Any],
    scores: Mapping[str, Sequence[float]],
    yardsticks: Mapping[str, float],
    higher_is_better: bool,
) -> dict[str, Any]:
    """{"word", "against": [{"rival", "difference", "interval"}]}; differences in the direction of better.

    scores   of every entrant, one a seed; a difference is that to the least that the claim allows
    """
    import numpy as np

    from layersmith.racing.options import ENOUGH_SEEDS
    from layersmith.racing.verdict import LEVEL, paired_interval

    sign = 1.0 if higher_is_better else -1.0
    own = np.asarray(scores[expect["entrant"]], dtype=float)
    if "reaches" in expect:
        rivals = {expect["reaches"]: np.full_like(own, yardstick(expect, yardsticks))}
    else:
        named = expect["beats"] if "beats" in expect else expect["matches"]
        rivals = {name: np.asarray(scores[name], dtype=float) for name in named}
    within = float(expect.get("within", 0.0))
    against: list[dict[str, Any]] = []
    for name, theirs in rivals.items():
        margin = sign * (own - theirs) + within * abs(theirs)
        interval = list(paired_interval(margin, (1 - LEVEL) / len(rivals))) if len(own) >= ENOUGH_SEEDS else None
        against.append({"rival": name, "difference": float(margin.mean()), "interval": interval})
    return {**expect, "word": _word(against, strict="beats" in expect), "against": against}


def yardstick(expect: dict[str, Any], yardsticks: Mapping[str, float]) -> float:
    """What the yardstick to be reached scores; UserError where the task has no such."""
    name = expect["reaches"]
    if name not in yardsticks:
        raise UserError(f"expect names the yardstick {name!r}. {suggest(str(name), list(yardsticks))}")
    return yardsticks[name]


def _word(against: list[dict[str, Any]], strict: bool) -> str:
    if any(each["interval"] is None for each in against):
        return FEW
    if all(each["interval"][0] > 0 or (not strict and each["interval"][0] == 0) for each in against):
        return HELD
    return NOT_HELD if any(each["interval"][1] < 0 for each in against) else SAME
