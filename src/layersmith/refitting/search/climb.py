"""Where a ladder of baselines is left: at the mildest rung that meets the budget, latency by the clock.

A climb asks for one rung after the other to be looked at. All ladders are climbed at once, so that those rungs can be
looked at together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from layersmith.refitting.search.clock import gain, to_predict
from layersmith.refitting.search.found import meets
from layersmith.refitting.search.uniform import Rung

#: Looks that each baseline gets.
LOOKS = 3
#: Once a rung meets the budget, a milder one that is expected to miss it by no more than this is looked at too.
DOUBT = 0.03


@dataclass(frozen=True)
class Climb:
    """Where a ladder was left: the mildest rung that meets the budget, or else the strongest, and what that reaches.

    reach  the best share of each missed budget that the method reaches; None when it meets all
    """

    rung: Rung
    reach: dict[str, float] | None


@dataclass(frozen=True)
class Look:
    """What a look at a rung found: its share of the original's latency, and whether nothing milder is of interest."""

    ratio: float
    hopeless: bool = False


Climbing = Generator[Rung, Look, Climb]


def climbing(rungs: list[Rung], shares: list[dict[str, float]], budget: dict[str, float], gained: float) -> Climbing:
    """Asks for looks at rungs, LOOKS at most, and returns where it ends.

    shares  of every rung, as predicted: exact but for latency
    gained  how many times as much is saved as predicted, as a first guess; each look gives a better one
    """
    exact = {name: share for name, share in budget.items() if name != "latency"}
    fitting = [i for i in range(len(rungs)) if meets(shares[i], exact)]
    if not fitting:
        strongest = min(range(len(rungs)), key=lambda i: max(shares[i][name] / exact[name] for name in exact))
        missed = {n: s for n in exact if (s := min(each[n] for each in shares)) > exact[n]}
        # Each budget alone may be within reach, and all of them together on no rung.
        return Climb(rungs[strongest], missed or {n: s for n, s in shares[strongest].items() if n in exact})
    if "latency" not in budget:
        return Climb(rungs[fitting[0]], None)
    bound, strongest = budget["latency"], min(fitting, key=lambda i: shares[i]["latency"])
    ratios: dict[int, float] = {}
    for left in reversed(range(LOOKS)):
        met = [i for i in ratios if ratios[i] <= bound]
        milder = [i for i in fitting if i not in ratios and not any(m < i for m in met)]
        hoped = bound + DOUBT if met else bound
        promising = [i for i in milder if shares[i]["latency"] <= to_predict(hoped, gained)]
        if met and not promising:
            break
        # The last look, and the only one that can say that nothing meets the budget, is at the strongest.
        index = promising[0] if promising and (met or left) else strongest
        if index in ratios:
            break
        look = yield rungs[index]
        ratios[index] = look.ratio
        if look.hopeless and look.ratio <= bound:
            break
        gained = gain(shares[index]["latency"], ratios[index])
    met = [i for i in ratios if ratios[i] <= bound]
    if met:
        return Climb(rungs[min(met)], None)
    best = min(ratios, key=lambda i: ratios[i])
    return Climb(rungs[best], {"latency": ratios[best]})


def climb_together(
    climbs: dict[str, Climbing],
    looked: Callable[[dict[str, Rung]], dict[str, Look]],
    tell: Callable[[int], None] = lambda ended: None,
) -> dict[str, Climb]:
    """Where each of these climbs ends.

    looked  looks at one rung of each climb that still asks for one
    tell    is told how many climbs have ended, after each round of looks
    """
    ended: dict[str, Climb] = {}
    looks: dict[str, Look | None] = dict.fromkeys(climbs)
    while looks:
        asked: dict[str, Rung] = {}
        for label, look in looks.items():
            try:
                asked[label] = next(climbs[label]) if look is None else climbs[label].send(look)
            except StopIteration as end:
                ended[label] = end.value
        tell(len(ended))
        looks = {**looked(asked)} if asked else {}
    return ended
