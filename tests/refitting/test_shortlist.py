"""Which candidates get a score on all windows: what they choose is what scores on all windows for all would choose."""

import random
from types import SimpleNamespace

import pytest
import torch

from layersmith.cost import Cost
from layersmith.measuring.divergence import divergence
from layersmith.refitting.build.block_library import LibrarySettings, build_library
from layersmith.refitting.calibrate.batches import first_rows
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.pruning import EXACT
from layersmith.refitting.score.replace_one import LOOK, ROUNDING, Part, Scoring, worth_scoring
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.refitting.search.choice import options, student
from layersmith.refitting.search.knapsack import solve
from layersmith.refitting.search.shortlist import FRONT, OPTIMISM, score_what_competes
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import token_batches

SITES = [f"layers.{i}.ffn" for i in range(6)]


class Planted(Scoring):
    """Scores that are made up: `true` on all windows, and a first look that is off by a factor of its own."""

    def __init__(self, library, true, factors):
        super().__init__(library, None, None)
        self.true, self.factors, self.whole_ids = true, factors, []

    def look(self, candidates):
        for c in candidates:
            c.divergence, c.scored_on = self.true[c.id] * self.factors[c.id], 0.125
        self.glanced |= {c.id for c in candidates}

    def whole(self, candidates):
        for c in candidates:
            c.divergence, c.scored_on = self.true[c.id], 1.0
        self.whole_ids += [c.id for c in candidates]
        self.glanced -= {c.id for c in candidates}


def planted(seed, most):
    """Six sites with nine candidates each: the less one takes the more it harms, over five orders of magnitude."""
    rng = random.Random(seed)
    candidates, true, factors = {}, {}, {}
    for site in SITES:
        for i in range(9):
            latency = 9.5 - i + rng.random()
            made = Candidate(f"{site}/rtn/{i}", [site], "rtn", {"i": i}, [], 10.0 ** -(9 - i), cost=cost(latency))
            candidates[made.id] = made
            true[made.id] = 10.0 ** (0.6 * i - 5 + rng.random())
            factors[made.id] = most ** rng.uniform(-1, 1)
    costs = SiteCosts(dict.fromkeys(SITES, cost(10.0)), cost(70.0))
    return Library(None, ["rtn"], candidates), costs, true, factors


def cost(latency):
    return Cost(100, 100, 0, latency_ms=latency)


def chosen(library, costs, share):
    found = solve(options(library, costs), costs.limits({"latency": share}))
    return None if found is None else found.chosen


@pytest.mark.parametrize("seed", range(5))
def test_looks_within_their_factor_choose_what_scores_on_all_windows_choose(seed):
    library, costs, true, factors = planted(seed, OPTIMISM)
    scoring = Planted(library, true, factors)
    score_what_competes(scoring, costs, {"latency": 0.75})
    assert len(set(scoring.whole_ids)) == len(scoring.whole_ids) < 0.8 * len(library.candidates)
    cheap = {share: chosen(library, costs, share) for share in (0.75, *FRONT)}
    left = {c.id: c.scored_on for c in library.candidates.values()}
    scoring.whole([library.candidates[name] for name in list(scoring.glanced)])
    for share, found in cheap.items():
        assert found == chosen(library, costs, share), share
        assert found is None or all(left[name] == 1.0 for name in found if name in left), share


def test_a_look_that_flatters_more_than_its_factor_is_found_out_and_one_that_slanders_is_not():
    library, costs, true, factors = planted(0, 1.0)
    for c in worth_scoring(library, ["latency"], costs):
        c.divergence = true[c.id]
    best = chosen(library, costs, 0.75)
    victim = next(name for name in best if name in true)
    for factor, same in [(1e-3, True), (1e3, False)]:
        library, costs, true, factors = planted(0, 1.0)
        factors[victim] = factor
        scoring = Planted(library, true, factors)
        score_what_competes(scoring, costs, {"latency": 0.75})
        found = chosen(library, costs, 0.75)
        assert (found == best) == (victim in found) == same


def test_what_does_not_move_at_a_first_look_needs_no_second():
    library, costs, true, factors = planted(0, 1.0)
    true |= dict.fromkeys(true, 1e-9)
    scoring = Planted(library, true, factors)
    score_what_competes(scoring, costs, {"latency": 0.75})
    assert scoring.whole_ids == []


def test_a_first_look_takes_the_first_quarter_of_the_rows():
    assert first_rows(token_batches(3, rows=4), LOOK) == [3, 0, 0]
    assert first_rows(token_batches(2, rows=8), LOOK) == [4, 0]
    assert first_rows(token_batches(8, rows=1), LOOK) == [1, 1, 0, 0, 0, 0, 0, 0]
    assert first_rows(token_batches(1, rows=1), LOOK) == [1]
    assert first_rows(token_batches(2, rows=3), 1) == [3, 3]


def test_exact_candidates_are_looked_at_together(activations, tmp_path, monkeypatch):
    """One that claims to be exact and is not makes each be looked at alone."""
    workspace = Workspace(tmp_path / "run", {})
    sites = ["layers.0.attn_norm", "layers.1.ffn_norm", "layers.3.attn_norm"]
    library, _ = build_library(activations, workspace, LibrarySettings(["fused_norm", "dyt"], sites, 0), {})
    exact = [c for c in library.usable() if c.method == "fused_norm"]
    assert len(exact) == 3
    assert all(c.local_error <= EXACT for c in exact)
    runs, real = [], Scoring._measured

    def watched(self, changes, part):
        runs.append(changes)
        return real(self, changes, part)

    monkeypatch.setattr(Scoring, "_measured", watched)
    Scoring(library, activations, workspace).look(library.usable())
    assert [len(changes) for changes in runs] == [1, 3]
    placed = [edit.path for edit, _ in runs[0][0][1]]
    assert placed == [path for site in sites for path in activations.anatomy.site(site).modules]
    assert all(abs(c.divergence) <= ROUNDING and c.scored_on == 0.125 for c in exact)
    for c in exact:
        workspace.remove(f"looks/{c.id}")
    impostor = next(c for c in library.usable() if c.method == "dyt" and c.site == exact[0].site)
    stored = Library.replacement
    monkeypatch.setattr(Library, "replacement", lambda self, c: stored(self, impostor if c.id == exact[0].id else c))
    runs.clear()
    Scoring(library, activations, workspace).look(exact)
    assert [len(changes) for changes in runs] == [1, 3]
    assert [abs(c.divergence) > ROUNDING for c in exact] == [True, False, False]
    workspace.close()


def test_where_tokens_read_later_ones_a_window_is_not_cut(activations):
    both_ways = [SimpleNamespace(causal=i > 0, cross=False) for i in range(2)]
    for mixers, tokens in [(both_ways, None), (both_ways[1:], 12), ([], None)]:
        anatomy = SimpleNamespace(of_kind=lambda kind, mixers=mixers: mixers)
        scoring = Scoring(None, SimpleNamespace(search=activations.search, anatomy=anatomy), None)
        assert scoring._half() == tokens
    part = Part([1, 0], 12)
    assert part.share(activations.search) == 0.125
    assert [(index, batch["input_ids"].shape) for index, batch in part.of(activations.search)] == [(0, (1, 12))]
    assert Part([2, 1]).share(activations.search) == 0.75
    halves = [tensor for _, batch in Part([2, 2], 12).of(activations.search) for tensor in batch.values()]
    assert all(tensor.is_contiguous() for tensor in halves), "models take their inputs apart by `view`"


def test_a_figure_says_on_how_much_text_it_rests(activations, llama, tmp_path):
    """The search text is two batches of two rows of 24 tokens: a first look takes half of one row."""
    workspace = Workspace(tmp_path / "run", {})
    settings = LibrarySettings(["width"], ["layers.1.ffn"], distill_steps=0)
    library, _ = build_library(activations, workspace, settings, {})
    scoring = Scoring(library, activations, workspace)
    candidates = worth_scoring(library, ["params"])
    first = [{"input_ids": activations.search[0]["input_ids"][:1, :12]}]
    for judge, texts, share in [(scoring.look, first, 0.125), (scoring.whole, activations.search, 1.0)]:
        judge(candidates)
        assert {c.scored_on for c in candidates} == {share}
        for c in candidates[:3]:
            changed = student(llama, library.replacement(c))
            with torch.no_grad():
                assert c.divergence == pytest.approx(divergence(llama, changed, texts).value, rel=1e-4), c.id
    before = {c.id: c.divergence for c in candidates}
    unable = SimpleNamespace(search=activations.search, anatomy=activations.anatomy)
    again = Scoring(library, unable, workspace)  # nothing to run: it is read back
    again.look(candidates)
    assert all(c.scored_on == 0.125 for c in candidates)
    assert again.glanced == {c.id for c in candidates}
    again.whole(candidates)
    assert {c.id: c.divergence for c in candidates} == before
    workspace.close()
