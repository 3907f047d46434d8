"""What may be chosen: candidates of named methods that could be built. Everything else is reported, and only that."""

import pytest
import torch
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

import layersmith.pocket
from layersmith.anatomy import Replay, find_sites
from layersmith.errors import UserError
from layersmith.refitting import pruning
from layersmith.refitting.build.block_library import LibrarySettings, build_library
from layersmith.refitting.build.changeable import check_patterns
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.taylor import taylor_scores
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.methods.fits.low_rank import LowRankWeights
from layersmith.refitting.methods.prune.width import Width
from layersmith.refitting.pipeline import refit
from layersmith.refitting.score.replace_one import Scoring, worth_scoring
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import VOCABULARY, tiny_batches, tiny_llama

SITE = "layers.1.ffn"


def of(method, error=0.5, divergence=0.1):
    return Candidate(f"{SITE}/{method}/default", [SITE], method, {}, [], local_error=error, divergence=divergence)


def library_of(*candidates, named):
    return Library(None, list(named), {c.id: c for c in candidates})


def test_floors_that_were_not_named_are_scored_and_are_neither_candidates_nor_rivals():
    library = library_of(of("linear", error=0.1, divergence=0.01), of("mean"), of("rtn"), named=["rtn"])
    assert {c.method for c in worth_scoring(library, [])} == {"linear", "mean", "rtn"}
    assert {c.method for c in library.usable()} == {c.method for c in library.offered()} == {"rtn"}


@pytest.mark.parametrize("method", ["rtn", "drop"])
def test_a_run_uses_nothing_but_what_was_named(tmp_path, method):
    (tmp_path / "book.txt").write_text("\n\n".join(f"Paragraph {i} of {i * i} about {i % 7}." * 6 for i in range(400)))
    result = refit(
        tiny_llama(layers=2),
        budget={"bytes": 0.98},
        out=tmp_path / "run",
        data=str(tmp_path / "book.txt"),
        tokenizer=AutoTokenizer.from_pretrained(layersmith.pocket.path()),
        methods=[method],
        at="prefill=1x16",
        heal_tokens=0,
        effort=0.02,
        progress=False,
    )
    assert {name.split("/")[1] for name in result["chosen"]["candidates"]} == {method}
    fronts = [taken for front in result["front"] for taken in front["choice"].values() if taken != "keep"]
    assert {name.split("/")[1] for name in fronts} <= {method}
    assert {uniform["method"] for uniform in result["uniform"]} == {method}
    floors = {c["method"]: c["divergence"] for c in result["candidates"] if c["method"] != method}
    assert {"linear", "mean", "rank_r"} <= {*floors}
    assert None not in floors.values()


def test_floors_that_were_named_are_candidates_like_any_other():
    library = library_of(of("linear"), of("rtn"), named=["linear", "rtn"])
    assert {c.method for c in library.offered()} == {"linear", "rtn"}


def built(activations, tmp_path, names, sites):
    workspace = Workspace(tmp_path / "run", {})
    try:
        return build_library(activations, workspace, LibrarySettings(names, sites, distill_steps=0), {})
    finally:
        workspace.close()


def test_a_fit_that_fails_is_a_refusal_and_the_others_go_on(activations, tmp_path, monkeypatch):
    def singular(self, view, settings):
        torch.linalg.cholesky(-torch.eye(3))

    monkeypatch.setattr(LowRankWeights, "build", singular)
    library, reports = built(activations, tmp_path, ["low_rank", "width"], [SITE])
    assert "not positive-definite" in reports[SITE].refusals["low_rank"]
    assert {c.method for c in library.usable()} == {"width"}


def test_a_mistake_in_a_method_is_not_taken_for_a_failed_fit(activations, tmp_path, monkeypatch):
    monkeypatch.setattr(Width, "build", lambda self, view, settings: torch.zeros(3) @ torch.zeros(4))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        built(activations, tmp_path, ["width"], [SITE])


def test_nothing_to_offer_at_all_is_said_with_the_reasons(activations, tmp_path):
    odd = tiny_llama(layers=1)
    odd.model.layers[0].mlp.act_fn = torch.nn.Softmax(-1)  # no activation we know, so no feed-forward we know
    anatomy, workspace = find_sites(odd), Workspace(tmp_path / "odd", {})
    made = Activations(Replay(odd, anatomy), anatomy, tiny_batches(), workspace)
    made.calibrate()
    with pytest.raises(UserError, match=r"None of the methods bilinear can change.*bilinear: it is not a gated"):
        built(made, tmp_path, ["bilinear"], ["layers.0.ffn"])
    workspace.close()


def test_a_pattern_at_which_no_method_works_is_refused(llama):
    anatomy = find_sites(llama)
    check_patterns(["layers.*.ffn", "layers.1.*"], anatomy, ["width"])
    message = r"Nothing can be changed at 'layers\.\*\.ffn_norm' .*width: it works on ffn sites"
    with pytest.raises(UserError, match=message):
        check_patterns(["layers.*.ffn", "layers.*.ffn_norm"], anatomy, ["width"])


def test_gradients_are_not_asked_for_where_no_feed_forward_is_known(tmp_path):
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=128,
    )
    model = MixtralForCausalLM(config).eval().requires_grad_(False)
    workspace = Workspace(tmp_path / "run", {})
    assert taylor_scores(model, find_sites(model), tiny_batches().fit, workspace) == {}
    workspace.close()


def test_a_candidate_whose_outputs_are_not_finite_is_refused_and_the_others_are_scored(
    activations, tmp_path, monkeypatch
):
    workspace = Workspace(tmp_path / "run", {})
    settings = LibrarySettings(["width"], [SITE], distill_steps=0)
    library, _ = build_library(activations, workspace, settings, {})
    bad = library.usable()[0]
    real = Library.replacement

    def spoilt(self, candidate):
        replacement = real(self, candidate)
        if candidate is bad:
            replacement[0][1].down.weight.data.fill_(torch.inf)
        return replacement

    monkeypatch.setattr(Library, "replacement", spoilt)
    monkeypatch.setattr(pruning, "BETTER", 0.0)
    for _ in range(2):  # the second time, scores are read back
        Scoring(library, activations, workspace).whole(worth_scoring(library, ["params"]))
        assert bad.refused == "with it, the model's outputs are not finite"
        assert bad not in library.usable()
        assert all(c.divergence is not None for c in library.usable())
        bad.refused = None
    workspace.close()
