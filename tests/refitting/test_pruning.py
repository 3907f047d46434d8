"""Which candidates are dropped before they cost any more time: by local error and measured cost, in plain numbers."""

import itertools

import pytest

from layersmith.cost import Cost
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.pruning import saves_something, unbeaten
from layersmith.refitting.score.replace_one import worth_scoring
from layersmith.refitting.score.site_costs import SiteCosts

SITE = "layers.1.ffn"


def cost(latency, params=100):
    return Cost(params, params, 0, latency_ms=latency)


def of(name, error, latency, params=100, method="rtn", sites=(SITE,)):
    return Candidate(
        f"{SITE}/{method}/{name}", list(sites), method, {"n": name}, [], local_error=error, cost=cost(latency, params)
    )


def names(candidates):
    return [c.settings["n"] for c in candidates]


def test_a_ladder_of_fair_trades_stays_whole():
    ladder = [of("mild", 0.01, 8.0), of("middle", 0.1, 5.0), of("strong", 0.4, 2.0)]
    for order in itertools.permutations(ladder):
        assert unbeaten([*order], ["latency"]) == [*order]


@pytest.mark.parametrize(
    ("rival", "beats"),
    [
        (of("closer at equal cost", 0.079, 5.05), True),
        (of("closer and dearer", 0.079, 5.2), False),
        (of("a little closer at equal cost", 0.09, 5.05), False),
        (of("as close and cheaper", 0.101, 4.7), True),
        (of("as close and a little cheaper", 0.101, 4.9), False),
        (of("farther and cheaper", 0.11, 4.0), False),
        (of("elsewhere", 0.01, 1.0, sites=("layers.2.ffn",)), False),
    ],
    ids=lambda value: value.settings["n"] if isinstance(value, Candidate) else "",
)
def test_who_beats_whom(rival, beats):
    candidate = of("candidate", 0.1, 5.0)
    assert (candidate not in unbeaten([candidate, rival], ["latency"])) == beats


def test_of_equals_the_first_stays_and_rounding_is_no_error():
    twins = [of("a", 1e-13, 5.0), of("b", 3e-14, 5.05), of("c", 1e-12, 4.0)]
    assert names(unbeaten(twins, ["latency"])) == ["c"]
    assert names(unbeaten(twins[:2], ["latency"])) == ["a"]
    assert names(unbeaten(twins[1::-1], ["latency"])) == ["b"]


def test_every_budget_has_a_say():
    fast, small = of("fast", 0.1, 4.0, params=90), of("small", 0.1, 5.0, params=50)
    assert len(unbeaten([fast, small], ["latency", "params"])) == 2
    assert unbeaten([fast, small], ["latency"]) == [fast]
    assert unbeaten([fast, small], ["params"]) == [small]


def test_what_saves_nothing_here_is_not_scored_and_still_may_be_used():
    costs = SiteCosts({SITE: cost(10.0)}, cost(100.0))
    slow, fast = of("slow", 0.1, 13.0), of("fast", 0.2, 4.0)
    exact, useless = of("exact", 0.0, 9.95), of("useless", 0.0, 10.1)
    assert [saves_something(c, costs, ["latency"]) for c in (slow, fast, exact, useless)] == [False, True, True, False]
    assert saves_something(of("smaller", 0.1, 13.0, params=50), costs, ["latency", "params"])
    library = Library(None, ["rtn"], {c.id: c for c in (slow, fast)})
    assert worth_scoring(library, ["latency"], costs) == [fast]
    assert worth_scoring(library, ["latency"]) == [slow, fast]
    assert library.usable() == [slow, fast]


def test_floors_are_scored_whatever_they_cost():
    costs = SiteCosts({SITE: cost(10.0)}, cost(100.0))
    floor = of("floor", 0.9, 50.0, method="linear")
    assert worth_scoring(Library(None, ["rtn"], {floor.id: floor}), ["latency"], costs) == [floor]
