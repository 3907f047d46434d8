"""Which candidates deserve a score on all windows: those that a search could choose.

Every candidate worth scoring gets a first look. Then the best mix is solved for, at the budget asked for and at those
of the front, and what it consists of is scored on all windows, until no mix holds anything that was only looked at:

    score(c) = divergence on all windows      where it is known
               first look / OPTIMISM          otherwise

While no first look is more than OPTIMISM times what all windows say, the second line is a lower bound of the first. A
mix that is best under lower bounds and of which every figure is exact is the best mix: the same as if everything had
been scored on all windows. What is left at its first look cannot compete, and its figure stays what it is. A first look
at which nothing moves by more than rounding says it all.

The search corrects its limit by the clock, so limits that are a little tighter are gone through too. One that is
corrected by more may let in what was only looked at: `scored_on` tells, and every mix is measured as a whole anyway.
"""

from __future__ import annotations

from dataclasses import replace

from layersmith.refitting.candidate import Candidate
from layersmith.refitting.score.replace_one import ROUNDING, Scoring, worth_scoring
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.refitting.search.choice import candidates_of, options
from layersmith.refitting.search.knapsack import solve

#: Shares of the first budget for which a mix is shown beside the one asked for.
FRONT = (0.9, 0.8, 0.7, 0.6, 0.5)
#: What the clock corrects a limit by, most often: mixes within a limit as much tighter are solved for as well.
TIGHTER = 0.95
#: How many times as large as on all windows a divergence may be on the first of them without changing the choice.
OPTIMISM = 2.0


def score_what_competes(scoring: Scoring, costs: SiteCosts, budget: dict[str, float]) -> None:
    """A first look at everything worth scoring, and a score on all windows for what a mix could consist of."""
    scoring.look(worth_scoring(scoring.built, list(budget), costs))
    name = next(iter(budget))
    asked = [budget[name], *FRONT]
    for share in dict.fromkeys([*asked, *(TIGHTER * each for each in asked)]):
        while unsure := _unsure(scoring, costs, {**budget, name: share}):
            scoring.whole(unsure)


def _unsure(scoring: Scoring, costs: SiteCosts, budget: dict[str, float]) -> list[Candidate]:
    """Those in the best mix within a budget whose score is a guess."""
    hopeful = [
        replace(option, score=option.score / OPTIMISM) if option.id in scoring.glanced else option
        for option in options(scoring.built, costs)
    ]
    best = solve(hopeful, costs.limits(budget))
    chosen = [] if best is None else candidates_of(best, scoring.built)
    return [c for c in chosen if c.id in scoring.glanced and (c.divergence or 0.0) > ROUNDING]
