"""Methods that limit a cache: everything kept is the original, less kept is worse, and what stays is what was said."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from layersmith.anatomy import Replay, find_sites
from layersmith.measuring.cost import model_cost, read
from layersmith.measuring.shape import Shape
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.checks import beyond_context
from layersmith.refitting.methods.prune.sliding_window import SlidingWindow
from layersmith.refitting.methods.prune.topk_retrieval import TopKRetrieval
from layersmith.refitting.methods.prune.tova import ToTOVA
from layersmith.refitting.methods.replace.to_combiner import ToCombiner
from layersmith.refitting.options import RefitConfig
from layersmith.refitting.settings import settings_for
from layersmith.refitting.view import standing
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_batches, tiny_llama

LIMITED = {SlidingWindow: {"size": 24, "first": 0}, ToTOVA: {"keep": 24, "chunk": 1}}
EVERYTHING = {**LIMITED, ToCombiner: {"span": 24}, TopKRetrieval: {"k": 24}}


@pytest.mark.parametrize("method", EVERYTHING, ids=lambda method: method.name)
def test_keeping_everything_changes_nothing_and_keeping_less_loses_more(method, view):
    at = view("layers.1.attn")
    assert at.local_error(method().build(at, EVERYTHING[method])) < 1e-10
    errors = [at.local_error(method().build(at, settings)) for settings in method().options(at)]
    assert errors == sorted(errors) or method is ToCombiner  # shorter spans are more of them, each summed up better
    assert errors[0] > 1e-6


def test_settings_are_shares_of_the_texts(view):
    at = view("layers.1.attn")  # of 24 tokens
    assert SlidingWindow().options(at) == [{"size": 9, "first": 3}, {"size": 5, "first": 1}, {"size": 3, "first": 0}]
    assert ToTOVA().options(at) == [{"keep": 12, "chunk": 3}, {"keep": 6, "chunk": 3}, {"keep": 3, "chunk": 3}]


@pytest.mark.parametrize("method", LIMITED, ids=lambda method: method.name)
def test_what_is_not_causal_keeps_no_cache(method, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = BertModel(BertConfig(vocab_size=4096, max_position_embeddings=64, **sizes)).eval().requires_grad_(False)
    anatomy, workspace = find_sites(model), Workspace(tmp_path / "run", {})
    activations = Activations(Replay(model, anatomy), anatomy, tiny_batches(), workspace)
    activations.calibrate()
    at = activations.view(anatomy.site("layers.1.attn"))
    assert method().unsupported_reason(at) == "it is not causal, so it keeps no cache"
    workspace.close()


@pytest.mark.parametrize("method", LIMITED, ids=lambda method: method.name)
def test_the_cache_stays_as_small_at_any_length(method, view, llama):
    """Half of a text of 24 tokens is what stays of 128 too, and the model goes on from it."""
    replacement = []
    for layer in range(4):
        at = view(f"layers.{layer}.attn")
        replacement += method().build(at, method().options(at)[0])
    with standing(llama, replacement):
        kept = [model_cost(llama, Shape("decode", 1, tokens)).state_bytes for tokens in (24, 48, 126)]
    assert kept[0] == kept[1] == kept[2] <= 4 * (2 * 2 * 12 * 8 * 4 + 8)  # 12 tokens, and how many there were


@torch.no_grad()
@pytest.mark.parametrize("full", [None, 0, 2, 3])
def test_one_layer_left_full_reads_what_the_windows_of_the_others_miss(full, view, llama):
    """Windows of 4 tokens in 4 layers reach 12 tokens back, and their caches stand still; a full layer reaches all."""
    replacement = []
    for layer in {0, 1, 2, 3} - {full}:
        replacement += SlidingWindow().build(view(f"layers.{layer}.attn"), {"size": 4, "first": 0})
    ids = torch.arange(5, 29)[None]
    other = ids.clone()
    other[0, 0] = 100
    with standing(llama, replacement):
        kept = [model_cost(llama, Shape("decode", 1, tokens)).state_bytes for tokens in (24, 48)]
        moved = (llama(input_ids=ids).logits - llama(input_ids=other).logits)[0, -1].abs().max()
    assert kept[1] - kept[0] == (0 if full is None else 24 * 2 * 2 * 8 * 4)
    assert (moved > 1e-4) == (full is not None)
    assert full is not None or moved < 1e-6


def test_texts_are_as_long_as_the_shape_where_a_method_loses_what_is_far():
    def sizes(at, names):
        config = RefitConfig(budget={"kv": 0.5}, out=Path("out"), methods=names, at=at, heal_tokens=4096)
        return settings_for(tiny_llama(layers=1), config).sizes

    plain, long = sizes("decode=1x1024", ["drop"]), sizes("decode=1x1024", ["drop", "tova"])
    assert (plain["length"], long["length"]) == (256, 1024)
    for purpose in ("calibration", "search", "report", "heal", "per_batch"):
        assert long[purpose] * 1024 == plain[purpose] * 256, purpose
    assert sizes("decode=1x128", ["tova"]) == sizes("decode=1x128", ["drop"])
    assert sizes("decode=1x65536", ["tova"])["length"] == 1024
    assert methods.forgets(["sliding_window"])
    assert not methods.forgets(["linear_attention", "width+int8_dynamic"])


def test_costs_beyond_the_context_are_measured_and_said_to_be_so():
    """A rotary model of 128 positions runs on 300 tokens: what that costs is asked, not what it predicts there."""
    model = tiny_llama(layers=1)
    assert model_cost(model, Shape("decode", 1, 300)).state_bytes == 300 * 2 * 2 * 8 * 4
    assert "beyond the 128 tokens" in beyond_context(model, Shape("decode", 1, 300))
    assert beyond_context(model, Shape("decode", 1, 128)) is None
    assert torch.isfinite(model(**read(model, Shape("prefill", 1, 300)).step).logits).all()
