"""The knapsack against brute force, covers of several sites, diversity, unreachable limits."""

import itertools
import random

import pytest

from layersmith.refitting.search.knapsack import Option, Solution, best_reachable, diverse, solve, summed
from layersmith.refitting.search.select import uniform_within, whole_mixes


def random_problem(seed):
    """Three blocks of two sites with three options each, plus one option per block that covers both sites."""
    rng = random.Random(seed)
    options = []
    for block in range(3):
        sites = [f"{block}.attn", f"{block}.ffn"]
        for site in sites:
            options.append(Option(f"{site}/keep", (site,), 0.0, {"ms": 10.0, "bytes": 4e6}))
            for k in range(2):
                cost = {"ms": rng.uniform(1, 10), "bytes": rng.uniform(1e5, 4e6)}
                options.append(Option(f"{site}/{k}", (site,), rng.uniform(0.01, 1), cost))
        options.append(Option(f"{block}/drop", tuple(sites), rng.uniform(0.1, 2), {"ms": 0.0, "bytes": 0.0}))
    return options


def brute_force(options, limits):
    sites = {s for o in options for s in o.covers}
    per_block = []
    for block in range(3):
        mine = [o for o in options if o.covers[0].startswith(f"{block}.")]
        singles = [[o for o in mine if o.covers == (f"{block}.{s}",)] for s in ("attn", "ffn")]
        pairs = [list(p) for p in itertools.product(*singles)]
        per_block.append(pairs + [[o] for o in mine if len(o.covers) == 2])
    best = None
    for picks in itertools.product(*per_block):
        chosen = [o for p in picks for o in p]
        assert sorted(s for o in chosen for s in o.covers) == sorted(sites)
        total = summed(chosen)
        if all(total.cost[n] <= limit for n, limit in limits.items()) and (best is None or total.score < best.score):
            best = total
    return best


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limits", [{"ms": 25.0}, {"ms": 40.0, "bytes": 9e6}, {"bytes": 3e6}, {}])
def test_equals_brute_force(seed, limits):
    options = random_problem(seed)
    expected, found = brute_force(options, limits), solve(options, limits)
    assert found is not None
    assert found.score == pytest.approx(expected.score, abs=1e-9)
    assert all(found.cost[n] <= limit * (1 + 1e-6) for n, limit in limits.items())


def test_every_site_is_decided_once():
    options = random_problem(0)
    by_id = {o.id: o for o in options}
    found = solve(options, {"ms": 30.0})
    covered = sorted(s for c in found.chosen for s in by_id[c].covers)
    assert covered == sorted({s for o in options for s in o.covers})


def test_diverse_solutions_differ_and_get_worse():
    solutions = diverse(random_problem(1), {"ms": 35.0}, count=4, min_changes=2)
    assert len(solutions) == 4
    for a, b in itertools.combinations(solutions, 2):
        assert len(set(a.chosen) - set(b.chosen)) >= 2
    assert [s.score for s in solutions] == sorted(s.score for s in solutions)


def test_unreachable_limit_is_none_and_best_reachable_is_named():
    options = [o for o in random_problem(2) if not o.id.endswith("/drop")]
    assert solve(options, {"ms": 0.5}) is None
    least = best_reachable(options, "ms")
    cheapest = {s: min(o.cost["ms"] for o in options if o.covers == (s,)) for o in options for s in o.covers}
    assert least.cost["ms"] == pytest.approx(sum(cheapest.values()))


def test_one_method_everywhere_is_a_mix_of_its_own():
    """A choice decides the sites it covers and keeps all others; what is not offered makes no mix."""
    options = random_problem(0)
    (mix,) = whole_mixes([["0/drop", "1.ffn/0"], ["2/floor"]], options)
    kept = {"1.attn/keep", "2.attn/keep", "2.ffn/keep"}
    assert set(mix.chosen) == {"0/drop", "1.ffn/0"} | kept
    by_id = {o.id: o for o in options}
    assert mix.score == by_id["0/drop"].score + by_id["1.ffn/0"].score
    assert mix.cost["ms"] == pytest.approx(by_id["1.ffn/0"].cost["ms"] + 30.0)


def test_uniform_mixes_are_measured_where_they_may_be_as_good():
    def mix(name, score, ms):
        return Solution((name,), score, {"ms": ms})

    best, worse = mix("solved", 0.1, 9.0), mix("solved too", 0.3, 9.0)
    near, far = mix("near", 0.2, 10.0), mix("far", 0.21, 5.0)
    slow, same = mix("slow", 0.1, 10.1), mix("solved", 0.1, 9.0)
    assert uniform_within([near, far, slow, same], {"ms": 10.0}, [worse, best]) == [near]
