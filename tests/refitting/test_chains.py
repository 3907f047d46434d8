"""Chains: one method after another at a site. They are built where both steps pay, and treated like all else."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from layersmith import checkpoint
from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.edit import apply, restore
from layersmith.anatomy.twin import twin
from layersmith.cost import Cost
from layersmith.errors import UserError
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.measuring.cost import model_cost
from layersmith.measuring.shape import Shape
from layersmith.refitting import methods
from layersmith.refitting.build.block_library import finished, keep
from layersmith.refitting.build.chains import worth_following
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.candidate import Candidate, Library, pack, unpack
from layersmith.refitting.score.costs import measure_costs
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.refitting.search.choice import student
from layersmith.refitting.search.uniform import ladders
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_batches, tiny_llama, token_batches

FFN, ATTN = "layers.1.ffn", "layers.1.attn"
#: site, chain, settings of its first step, matrices that its second step rounds
CHAINS = [
    (FFN, "width+int8_dynamic", {"keep": 0.5}, 3),
    (FFN, "low_rank+bf16", {"keep": 0.75}, 6),
    (FFN, "fused_glu+int8_dynamic", {"one_row": True}, 2),
    (ATTN, "heads+bf16", {"groups": 1}, 4),
    (ATTN, "kv_merge+int8_dynamic", {"kv_heads": 1}, 4),
    (ATTN, "fused_attention+int8_dynamic", {"one_row": False}, 2),
]
every_chain = pytest.mark.parametrize(("site", "name", "settings", "matrices"), CHAINS, ids=[c[1] for c in CHAINS])


@pytest.mark.parametrize(
    ("site", "name", "settings", "matrices"), CHAINS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_chain_is_its_first_step_with_every_matrix_in_the_format(view, llama, site, name, settings, matrices):
    at, chain = view(site), methods.get(name)
    first = chain.first.build(at, settings)
    made = chain.follow(at, copy.deepcopy(first))
    assert len(made) - len(first) == matrices
    # The oracle: every nn.Linear of the first step exchanged by hand.
    by_hand = copy.deepcopy(first)
    for _, module in by_hand:
        for path, linear in list(module.named_modules()):
            if isinstance(linear, torch.nn.Linear):
                part = methods.get(chain.then.name).build(FakeView(linear), {})[0][1]
                parent, _, child = path.rpartition(".")
                setattr(module.get_submodule(parent), child, part)
    with torch.no_grad():
        expected, found = at.run(by_hand, at.holdout), at.run(made, at.holdout)
        plain = at.run(first, at.holdout)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert not torch.equal(plain[0], found[0])
    assert at.local_error(made) < at.local_error(first) + 0.05


class FakeView:
    """A site that is one matrix."""

    def __init__(self, linear):
        self.linears = lambda: {"matrix": linear}


@pytest.mark.parametrize(
    ("site", "name", "settings", "matrices"), CHAINS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_stored_and_built_anew_it_is_the_same_without_the_matrices_it_replaced(
    view, llama, site, name, settings, matrices
):
    at, chain = view(site), methods.get(name)
    made = at.as_stored(chain.build(at, settings))
    edits, tensors = pack(made)
    assert not [k for k, v in tensors.items() if v.is_floating_point() and v.ndim == 2], "a dense matrix was kept"
    with torch.no_grad():
        expected = at.run(made, at.holdout)
        found = at.run(unpack(edits, tensors), at.holdout)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    missing = {k: v for k, v in tensors.items() if not k.endswith("_bits")}
    with pytest.raises(RuntimeError, match="does not fit"):
        unpack(edits, missing)


def test_matrices_that_the_first_step_leaves_alone_get_the_format_too(view):
    """At half of a small matrix no rank of eight is left, so k and v stay as they are."""
    at = view(ATTN)
    assert {edit.path[-6:] for edit, _ in methods.get("low_rank").build(at, {"keep": 0.5})} == {"q_proj", "o_proj"}
    made = methods.get("low_rank+int8_dynamic").build(at, {"keep": 0.5})
    rounded = {edit.path.partition("self_attn.")[2] for edit, part in made if isinstance(part, Int8Dynamic)}
    assert rounded == {"q_proj.u", "q_proj.v", "o_proj.u", "o_proj.v", "k_proj", "v_proj"}


def test_the_model_is_as_it_was_after_a_chain_was_put_in_and_taken_out(view, llama):
    before = {name: id(module) for name, module in llama.named_modules()}
    restore(llama, apply(llama, methods.get("kv_merge+int8_dynamic").build(view(ATTN), {"kv_heads": 1})))
    assert {name: id(module) for name, module in llama.named_modules()} == before


def test_moments_after_a_step_are_those_of_what_it_left(view):
    at = view(FFN)
    first = methods.get("width").build(at, {"keep": 0.5})
    after, glu = at.after(first), first[0][1]
    hidden = glu.act(glu.gate(at.inputs)) * glu.up(at.inputs)
    found = {path.rpartition(".")[2]: gram for path, gram in after.grams.items()}
    assert found.keys() == {"gate", "up", "down"}
    torch.testing.assert_close(found["down"], hidden.T @ hidden / len(hidden), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["up"], at.inputs.T @ at.inputs / len(at.inputs), rtol=1e-4, atol=1e-4)
    assert at.grams.keys() == {f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")}, "the view's own"


# -- which are built ------------------------------------------------------------------------------------------------


def cost(latency):
    return Cost(10, 10, 0, weight_bytes=10, latency_ms=latency)


def known(site, method, n, error, latency):
    return Candidate(f"{site}/{method}/{n}", [site], method, {"n": n}, [], local_error=error, cost=cost(latency))


def test_structures_that_are_not_beaten_are_followed_by_formats_that_save_time_here():
    named = ["width", "low_rank", "drop", "int8_dynamic", "bf16"]
    candidates = [
        known(FFN, "width", 1, 0.1, 6.0),
        known(FFN, "width", 2, 0.3, 3.0),
        known(FFN, "low_rank", 1, 0.2, 7.0),  # width 1 is better at less
        known(FFN, "low_rank", 2, 0.2, 4.0),
        known(FFN, "drop", 1, 1.0, 0.0),
        known(FFN, "int8_dynamic", 0, 0.001, 2.0),  # beats every width, and is what the widths are multiplied with
        known(FFN, "bf16", 0, 0.0001, 12.0),  # slow here
        known(ATTN, "low_rank", 1, 0.2, 7.0),
        known(ATTN, "int8_dynamic", 0, 0.001, 12.0),
        known(ATTN, "bf16", 0, 0.0001, 5.0),
    ]
    library = Library(None, methods.chosen(named, []), {c.id: c for c in candidates})
    costs = SiteCosts({FFN: cost(10.0), ATTN: cost(10.0)}, cost(100.0))

    def wanted(site):
        return [(first.id, chain.name) for first, chain in worth_following(library, site, costs, ["latency"])]

    assert wanted(FFN) == [
        (f"{FFN}/width/1", "width+int8_dynamic"),
        (f"{FFN}/width/2", "width+int8_dynamic"),
        (f"{FFN}/low_rank/2", "low_rank+int8_dynamic"),
    ]
    assert wanted(ATTN) == [(f"{ATTN}/low_rank/1", "low_rank+bf16")]
    library.candidates[f"{FFN}/width/1"].refused = "a reason"
    assert wanted(FFN)[0] == (f"{FFN}/width/2", "width+int8_dynamic")


def test_named_methods_bring_their_chains():
    assert methods.chosen(["width", "int8_dynamic"], []) == ["width", "int8_dynamic", "width+int8_dynamic"]
    assert methods.chosen(["drop", "int8_dynamic"], []) == ["drop", "int8_dynamic"]
    assert methods.chosen(["width+bf16"], []) == ["width+bf16"]
    assert methods.steps(["drop", "width+bf16", "width"]) == ["drop", "width", "bf16"]


@pytest.mark.parametrize("name", ["int8_dynamic+width", "drop+int8_dynamic", "width+rtn", "width+int8_dynamic+bf16"])
def test_a_chain_of_what_cannot_follow_is_refused(name):
    with pytest.raises(UserError, match="cannot follow"):
        methods.get(name)
    with pytest.raises(UserError, match="'width'"):
        methods.get("widht+int8_dynamic")


def test_a_uniform_chain_has_its_format_at_all_other_sites():
    def at(site, method, n, error):
        return known(site, method, n, error, 1.0)

    sites = {"layers.0.ffn": "ffn", "layers.1.ffn": "ffn", "layers.0.attn": "mixer", "head": "head"}
    found = [at(s, "int8_dynamic", 0, 0.001) for s in sites]
    found += [at(f"layers.{i}.ffn", "width+int8_dynamic", n, e) for i in (0, 1) for n, e in ((1, 0.1), (2, 0.4))]
    slower = [known(s, "bf16", 0, 0.0001, 2.0) for s in sites]
    slower += [known("layers.0.ffn", "width+bf16", 1, 0.1, 1.5)]
    names = ["int8_dynamic", "bf16", "width+int8_dynamic", "width+bf16"]
    library = Library(None, names, {c.id: c for c in [*slower, *found]})

    class Sites:
        def site(self, name):
            return type("S", (), {"kind": sites[name]})

    by_label = {ladder.label: ladder for ladder in ladders(library, Sites())}
    assert by_label.keys() == {"bf16 everywhere", "int8_dynamic everywhere", "width+int8_dynamic ffn"}
    mild, strong = by_label["width+int8_dynamic ffn"].rungs
    assert (mild.settings, strong.settings) == ({"n": 1}, {"n": 2})
    for n, rung in ((1, mild), (2, strong)):
        chains = {f"layers.{i}.ffn/width+int8_dynamic/{n}" for i in (0, 1)}
        assert {*rung.ids} == chains | {"layers.0.attn/int8_dynamic/0", "head/int8_dynamic/0"}
    del library.candidates["layers.1.ffn/width+int8_dynamic/2"]
    rungs = {len(rung.ids): rung for rung in ladders(library, Sites())[-1].rungs}
    settings = [rung.settings for rung in ladders(library, Sites())[-1].rungs]
    assert settings == [{"n": 1}, {"n": 2, "sites": 1}]
    assert rungs.keys() == {4}, "the other feed-forward has the format alone"


# -- like any other candidate ---------------------------------------------------------------------------------------


def kept(library, at, name, settings):
    chain = methods.get(name)
    candidate, tensors = finished(at, chain, settings, chain.build(at, settings))
    library.candidates[candidate.id] = keep(library.workspace, candidate, tensors)
    return candidate


@pytest.mark.parametrize("shape", [Shape("prefill", 2, 24), Shape("decode", 2, 24)], ids=str)
def test_predicted_is_measured(view, llama, activations, tmp_path, shape):
    workspace = Workspace(tmp_path / "run", {})
    library = Library(workspace, [])
    chosen = [kept(library, view(site), name, settings) for site, name, settings, _ in (CHAINS[0], CHAINS[4])]
    assert [c.id for c in chosen] == [f"{FFN}/width+int8_dynamic/keep=0.5", f"{ATTN}/kv_merge+int8_dynamic/kv_heads=1"]
    assert [c.sites for c in chosen] == [[FFN], [ATTN]]
    earlier = measure_costs(llama, activations.anatomy, Library(workspace, []), shape, workspace, rounds=1)
    costs = measure_costs(llama, activations.anatomy, library, shape, workspace, rounds=1, earlier=earlier)
    assert costs is earlier
    predicted = costs.predicted(chosen)
    measured = model_cost(twin(llama, [pair for c in chosen for pair in library.replacement(c)]), shape)
    for budget in ("params", "bytes", "flops", "kv"):
        assert predicted.of(budget) == measured.of(budget), budget
    plain = model_cost(llama, shape)
    assert measured.params < plain.params
    again = Library(workspace, [], {c.id: Candidate.from_json({**c.to_json()}) for c in chosen})
    measure_costs(llama, activations.anatomy, again, shape, workspace, earlier=earlier)
    assert [c.cost for c in again.candidates.values()] == [c.cost for c in chosen]
    workspace.close()


def test_costs_that_came_later_are_on_the_scale_of_the_first(view, llama, activations, tmp_path):
    workspace = Workspace(tmp_path / "run", {})
    library, shape = Library(workspace, []), Shape("prefill", 1, 24)
    chain = kept(library, view(FFN), "width+int8_dynamic", {"keep": 0.5})
    figures = {"params": 1, "bytes": 1, "flops": 1, "kv_bytes": 0}
    saved = {"sites": {}, "refused": {}, "total": {**figures, "latency_ms": 50.0}}
    workspace.save_json("costs-of-chains", {**saved, "candidates": {chain.id: {**figures, "latency_ms": 5.0}}})
    measure_costs(llama, activations.anatomy, library, shape, workspace, earlier=SiteCosts({}, cost(100.0)))
    assert chain.cost.latency_ms == 10.0
    workspace.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_saved_and_loaded_the_model_with_chains_is_the_same(view, llama, tmp_path, dtype):
    chosen = [methods.get(name).build(view(site), settings) for site, name, settings, _ in (CHAINS[0], CHAINS[5])]
    model = copy.deepcopy(llama)
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay in float32, as in a loaded model
        parameter.data = parameter.data.to(dtype)
    replacement = [(edit, module.to(dtype)) for made in chosen for edit, module in made]
    edited = student(model, replacement)
    kind = checkpoint.save_result(edited, model, [edit for edit, _ in replacement], tmp_path / "model")
    assert kind == "layersmith"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype).eval()
    assert sum(isinstance(part, Int8Dynamic) for part in loaded.modules()) == 5
    (batch,) = token_batches(1)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, edited(**batch).logits)
        token = loaded(**batch, use_cache=True)
        assert torch.isfinite(token.logits).all()


def test_a_model_of_half_precision_gets_chains_in_its_own_dtype(tmp_path):
    model = tiny_llama(layers=2).to(torch.bfloat16)
    anatomy = find_sites(model)
    workspace = Workspace(tmp_path / "run", {})
    made = Activations(Replay(model, anatomy), anatomy, tiny_batches(), workspace)
    made.calibrate()
    library = Library(workspace, [])
    at = made.view(anatomy.site("layers.0.attn"))
    kept(library, at, "heads", {"groups": 1})
    first = library.candidates["layers.0.attn/heads/groups=1"]
    chain = methods.get("heads+int8_dynamic")
    candidate, tensors = finished(at, chain, first.settings, chain.follow(at, library.replacement(first)))
    floats = {k: v.dtype for k, v in tensors.items() if v.is_floating_point()}
    assert floats
    assert {*floats.values()} == {torch.bfloat16}
    assert candidate.refused is None
    library.candidates[candidate.id] = keep(workspace, candidate, tensors)
    (batch,) = token_batches(1)
    with torch.no_grad():
        assert torch.isfinite(twin(model, library.replacement(candidate))(**batch).logits).all()
    workspace.close()
