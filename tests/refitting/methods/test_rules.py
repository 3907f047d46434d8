"""Rules that measure whole mixes, against exhaustive search on made-up harms in which candidates hurt each other."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches
from layersmith.refitting.methods.prune.rules import TOLERANCES, by_site, halved, one_by_one, strongest_within
from layersmith.refitting.methods.prune.width import sliced, strongest
from layersmith.refitting.search.variants import joint_divergence, outputs
from layersmith.runs.workspace import Workspace
from tests.architectures.every import EVERY
from tests.refitting.conftest import VOCABULARY, tiny_llama, token_batches
from tests.refitting.methods.by_hand import ffn_view, hidden_by_hand, linear_by_hand, numbers


def candidate(site, strength=1, settings=None, sites=None):
    return SimpleNamespace(id=f"{site}/{strength}", site=site, sites=sites or [site], settings=settings or {})


class Harm:
    """A number for each candidate, and one for each pair of sites; counts what it is asked."""

    def __init__(self, single, pairs=None):
        self.single, self.pairs, self.asked = single, pairs or {}, []

    def __call__(self, mix):
        self.asked.append([c.id for c in mix])
        pairs = itertools.combinations(sorted(c.site for c in mix), 2)
        return sum(self.single[c.id] for c in mix) + sum(self.pairs.get(pair, 0.0) for pair in pairs)


def test_one_by_one_tries_all_that_is_left_beside_what_is_gone():
    sites = [candidate(name) for name in "abcd"]
    harm = Harm({"a/1": 1.0, "b/1": 2.0, "c/1": 3.0, "d/1": 9.0}, {("a", "b"): 10.0, ("c", "d"): -8.0, ("b", "c"): 9})
    found = [[c.site for c in mix] for mix in one_by_one(sites, harm)]
    # Once a is gone b would cost 12, and c 3; once c is gone too, d costs 1.
    assert found == [["a"], ["a", "c"], ["a", "c", "d"], ["a", "c", "d", "b"]]
    assert len(harm.asked) == 4 + 3 + 2 + 1
    single = sorted(sites, key=lambda c: harm.single[c.id])
    assert [c.site for c in single] != found[-1], "the harms tell the rule from one by single scores"


def test_one_by_one_takes_no_site_twice():
    whole = candidate("block", sites=["a", "b"])
    harm = Harm({"block/1": 1.0, "a/1": 2.0, "b/1": 3.0, "c/1": 9.0})
    mixes = list(one_by_one([whole, candidate("a"), candidate("b"), candidate("c")], harm))
    assert [[c.site for c in mix] for mix in mixes] == [["block"], ["block", "c"]]


def places(sites="abc", strengths=5):
    return [[candidate(site, strength) for strength in range(1, strengths + 1)] for site in sites]


def grown(rates):
    """Harm of a strength is its square times the rate of its site."""
    return {c.id: rates[c.site] * int(c.id[-1]) ** 2 for ordered in places() for c in ordered}


def test_strongest_within_is_the_best_that_the_whole_tolerance_allows_in_one_walk():
    harm = Harm(grown({"a": 1.0, "b": 0.5, "c": 0.01}))
    found = strongest_within(places(), harm, tolerance=5.0)
    # a takes 4 of 5, b takes what is left (0.5 = 1/2 * 1^2), c as much as 0.5 allows: 0.01 * 25.
    assert [c.id for c in found] == ["a/2", "b/1", "c/5"]
    for chosen, ordered in zip(found, places(), strict=True):
        before = [c for c in found if c.site < chosen.site]
        allowed = [c.id for c in ordered if Harm(harm.single)([*before, c]) <= 5.0]
        assert chosen.id == allowed[-1]
    assert strongest_within(places(), harm, tolerance=0.001) == []


def test_strongest_within_passes_by_what_is_decided_already():
    harm = Harm(grown({"a": 1.0, "b": 1.0, "c": 1.0}))
    start = [candidate("a", 1)]
    assert [c.id for c in strongest_within(places(), harm, 2.0, start)] == ["a/1", "b/1"]


@pytest.mark.parametrize("tolerance", [0.0, 0.3, 1.0, 4.0, 30.0])
def test_halved_gives_every_place_the_tolerance_anew_and_finds_what_trying_all_would(tolerance):
    harm = Harm(grown({"a": 1.0, "b": 0.2, "c": 5.0}), {("a", "b"): 0.05})
    found, before = halved(places(), harm, tolerance), 0.0
    chosen = {c.site: c for c in found}
    mix = []
    for ordered in places():
        allowed = [c for c in ordered if Harm(harm.single, harm.pairs)([*mix, c]) - before <= tolerance]
        assert chosen.get(ordered[0].site) == (allowed[-1] if allowed else None)
        if allowed:
            mix.append(allowed[-1])
            before = Harm(harm.single, harm.pairs)(mix)
    assert len(harm.asked) <= 3 * 3, "bisection of five strengths takes three looks at a place"


def test_sites_are_walked_from_either_end():
    mixed = [candidate("a", 1), candidate("b", 1), candidate("a", 2)]
    assert [[c.id for c in place] for place in by_site(mixed, last_first=False)] == [["a/1", "a/2"], ["b/1"]]
    assert [[c.id for c in place] for place in by_site(mixed, last_first=True)] == [["b/1"], ["a/1", "a/2"]]


def test_removal_takes_whole_sublayers_before_parts_of_them():
    whole = [candidate(site, 9, {"whole": True}) for site in "ab"]
    parts = [candidate(site, strength, {"keep": 1 / strength}) for site in "ab" for strength in (1, 2)]
    harm = Harm({"a/9": 0.0005, "b/9": 7.0, "a/1": 0.0001, "a/2": 0.0002, "b/1": 0.0001, "b/2": 0.05})
    first, *_ = methods.get("removal").rungs([*whole, *parts], harm)
    assert first[0] == {"tolerance": TOLERANCES[0]}
    assert [c.id for c in first[1]] == ["a/9", "b/1"]


def test_adaptive_widths_go_from_the_last_feed_forward_to_the_first_and_differ():
    harm = Harm(grown({"a": 0.0002, "b": 0.002, "c": 0.00001}))
    mixes = list(methods.get("adaptive_width").rungs([c for ordered in places() for c in ordered], harm))
    assert [c.id for c in mixes[0][1]] == ["c/5", "a/2"]
    assert [settings["tolerance"] for settings, _ in mixes] == list(TOLERANCES)
    assert len(mixes[-1][1]) == 3


@pytest.mark.parametrize("kind", [GLU, MLP])
def test_a_sliced_feed_forward_is_the_one_with_channels_masked(kind):
    at = ffn_view(kind, bias=True)
    dense = at.ffn.operator
    kept = strongest(torch.rand(24, generator=torch.Generator().manual_seed(0)), keep=0.4)
    assert len(kept) == 8
    hidden = hidden_by_hand(dense, at.inputs) if dense.spec()["act"] == "silu" else None
    small = sliced(dense, kept)
    masked = torch.zeros(24)
    masked[kept] = 1.0
    hook = dense.down.register_forward_pre_hook(lambda module, args: (args[0] * masked,))
    expected = dense(at.inputs)
    hook.remove()
    torch.testing.assert_close(small(at.inputs), expected)
    if hidden is not None:
        row = [h * m for h, m in zip(hidden[0], masked.tolist(), strict=True)]
        torch.testing.assert_close(small(at.inputs[0]).tolist(), linear_by_hand(dense.down, row), rtol=1e-4, atol=1e-4)


def test_adaptive_width_keeps_the_channels_of_highest_mean_magnitude():
    at = ffn_view(GLU)
    size = torch.rand(24, generator=torch.Generator().manual_seed(1))
    at.statistics = {"taylor": -size, "taylor_size": size}
    ((_, part),) = methods.get("adaptive_width").build(at, {"keep": 1 / 3})
    best = sorted(sorted(range(24), key=lambda i: -numbers(size)[i])[:8])
    assert torch.equal(part.up.weight, at.ffn.operator.up.weight[best])
    assert torch.equal(part.down.weight, at.ffn.operator.down.weight[:, best])


def shed_blocks(model, folder, vocabulary):
    """Candidates of all blocks of a model without them, and the harm of mixes of these on text."""
    anatomy, workspace = find_sites(model), Workspace(folder, {})

    def drawn(seed):
        return [{"input_ids": batch["input_ids"] % vocabulary} for batch in token_batches(2, seed=seed)]

    activations = Activations(Replay(model, anatomy), anatomy, Batches(*map(drawn, range(5))), workspace)
    activations.calibrate()
    blocks = []
    for site in anatomy.of_kind("block"):
        made = methods.get("shed").build(activations.view(site), {})
        blocks.append(SimpleNamespace(id=site.name, site=site.name, sites=[site.name], made=made))
    workspace.close()
    batches = drawn(7)
    expected = outputs(model, batches)

    def harm(mix):
        return joint_divergence(model, [pair for c in mix for pair in c.made], batches, expected).value

    return blocks, harm


def test_silent_blocks_are_shed_first_without_a_trace_and_then_no_worse_than_all_choices(tmp_path):
    model = tiny_llama(layers=5, seed=3)
    for layer in (1, 3):
        model.model.layers[layer].self_attn.o_proj.weight.zero_()
        model.model.layers[layer].mlp.down_proj.weight.zero_()
    blocks, harm = shed_blocks(model, tmp_path / "run", VOCABULARY)
    found = [mix for _, mix in methods.get("shed").rungs(blocks, harm)]
    assert {c.site for c in found[1]} == {"layers.1", "layers.3"}
    assert abs(harm(found[0])) < 1e-6
    assert abs(harm(found[1])) < 1e-6
    assert abs(harm([])) < 1e-6, "nothing removed is the model itself"
    least = min(harm(list(subset)) for subset in itertools.combinations(blocks, 3))
    assert harm(found[2]) == pytest.approx(least, rel=1e-4), "with two that cost nothing, greedy is the best of all"


def test_a_mamba_is_shed_by_the_same_rule(tmp_path):
    model = EVERY["mamba"].model().requires_grad_(False)
    model.backbone.layers[1].mixer.out_proj.weight.zero_()
    blocks, harm = shed_blocks(model, tmp_path / "run", 90)
    first, *_ = methods.get("shed").rungs(blocks, harm)
    assert first[0] == {"sites": 1}
    assert [c.site for c in first[1]] == ["layers.1"]
    assert abs(harm(first[1])) < 1e-6 < harm(blocks[:1])
