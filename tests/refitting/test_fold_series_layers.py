"""Layers that are ours part by part become `series` blocks: equal outputs, and still a model like any other."""

import copy

import pytest
import torch
from transformers import GenerationConfig, GraniteConfig, GraniteForCausalLM

from layersmith.anatomy import find_sites, replacement_for, swap
from layersmith.anatomy.edit import Edit, apply, combined
from layersmith.anatomy.twin import twin
from layersmith.block.series import Series
from layersmith.checkpoint import load, save
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from layersmith.ffn.zero import Zero
from layersmith.kernels import native, step
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.quantized import QuantizedLinear
from layersmith.measuring.cost import model_cost
from layersmith.measuring.shape import Shape
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.refitting.prove import folding
from layersmith.refitting.prove.folding import fold_where_it_pays
from layersmith.refitting.prove.folds import series_layers
from layersmith.runs.workspace import Workspace
from tests.anatomy.families import BY_NAME
from tests.refitting.conftest import tiny_llama
from tests.refitting.methods.test_exact_rewrites import rewritten

TOKENS = torch.randint(5, 96, (2, 9), generator=torch.Generator().manual_seed(1))
PADDING = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]])


def rewritten_llama(bits=None):
    """A tiny Llama of our parts with `one_row`, its maps in 8 bits or int8 where asked; and its edits."""
    model = tiny_llama(layers=3)
    replacement, _ = rewritten(model, one_row=True)
    apply(model, replacement)
    edits = [edit for edit, _ in replacement]
    if bits is None:
        return model, edits
    inside = []
    for path, module in list(model.named_modules()):
        if path.endswith((".qkv", ".o", ".gate_up", ".down")):
            made = Int8Dynamic.from_weight(module.weight)
            part = made if bits == "int8" else QuantizedLinear.from_weight(module.weight, bits, 32)
            inside.append((Edit(path, part.spec(), {}), part.requires_grad_(False)))
    apply(model, inside)
    return model, [*edits, *(edit for edit, _ in inside)]


@pytest.fixture(params=[None, 8, "int8"], ids=str)
def pair(request):
    """A rewritten model, its twin with the fold, and the edits that the twin is saved with."""
    model, edits = rewritten_llama(request.param)
    folded = twin(model)
    fold = series_layers.fold(folded, find_sites(folded))
    fold.apply(folded)
    return model, folded, combined(edits, fold.written)


@torch.no_grad()
def test_nothing_changes_and_no_weight_is_copied(pair):
    model, folded, _ = pair
    assert sum(isinstance(module, Series) for module in folded.modules()) == 3
    assert {id(p) for p in folded.parameters()} == {id(p) for p in model.parameters()}
    assert {id(b) for b in folded.buffers()} == {id(b) for b in model.buffers()}
    for mask in (None, PADDING):
        assert torch.equal(folded(TOKENS, attention_mask=mask).logits, model(TOKENS, attention_mask=mask).logits)
    hidden = folded(TOKENS, output_hidden_states=True).hidden_states
    for got, want in zip(hidden, model(TOKENS, output_hidden_states=True).hidden_states, strict=True):
        assert torch.equal(got, want)
    for shape in (Shape("prefill", 1, 16), Shape("decode", 1, 16)):
        assert model_cost(folded, shape) == model_cost(model, shape)


@torch.no_grad()
def test_it_writes_with_and_without_a_cache_with_padding_and_in_beams(pair, monkeypatch):
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")
    model, folded, _ = pair
    served, run = [], step.series_step
    monkeypatch.setattr(step, "series_step", lambda *args: served.append(1) or run(*args))
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    for given in (
        {"input_ids": TOKENS[:1]},
        {"input_ids": TOKENS[:1], "use_cache": False},
        {"input_ids": TOKENS, "attention_mask": PADDING},
        {"input_ids": TOKENS[:1], "num_beams": 3},
    ):
        want = model.generate(generation_config=GenerationConfig(**settings), **given)
        assert torch.equal(folded.generate(generation_config=GenerationConfig(**settings), **given), want)
    assert len(served) == 3 * 7  # a single text with a cache alone
    guessed = folded.generate(TOKENS[:1], prompt_lookup_num_tokens=2, **settings)  # tokens are tried and taken back
    assert torch.equal(guessed, folded.generate(TOKENS[:1], **settings))


@torch.no_grad()
def test_it_is_saved_and_loaded(pair, tmp_path):
    _, folded, edits = pair
    save(folded, edits, tmp_path)
    again, _ = load(tmp_path)
    assert sum(isinstance(module, Series) for module in again.modules()) == 3
    assert torch.equal(again(TOKENS).logits, folded(TOKENS).logits)


@torch.no_grad()
def test_it_is_taken_apart_like_the_model_before(pair):
    model, folded, _ = pair
    before, after = find_sites(model), find_sites(folded)
    for was, now in zip(before, after, strict=True):
        assert (now.name, now.kind, now.causal, now.layer, now.locked) == (
            was.name,
            was.kind,
            was.causal,
            was.layer,
            "",
        )
    with pytest.raises(UserError, match="No layer consists of"):
        series_layers.fold(folded, after)


@torch.no_grad()
@pytest.mark.parametrize("what", ["attention", "nothing", "feed-forward", "block"])
def test_what_stands_in_it_can_be_replaced_again(what, pair, tmp_path):
    model, folded, edits = pair
    anatomy = find_sites(folded)
    name, part = {
        "attention": ("layers.1.attn", SoftmaxAttention(32, 4, 2, rope_theta=100.0)),
        "nothing": ("layers.1.attn", Zero(32)),
        "feed-forward": ("layers.1.ffn", GLU(32, 48)),
        "block": ("layers.1", Zero(32)),
    }[what]
    with swap(model, {name: copy.deepcopy(part)}):
        want = model(TOKENS).logits
    replacement = replacement_for(folded, anatomy.site(name), part.requires_grad_(False))
    apply(folded, replacement)
    torch.testing.assert_close(folded(TOKENS).logits, want, atol=1e-4, rtol=1e-4)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    written = folded.generate(TOKENS, **settings)
    assert torch.equal(written, folded.generate(TOKENS, use_cache=False, **settings))
    save(folded, combined(edits, [edit for edit, _ in replacement]), tmp_path)
    assert torch.equal(load(tmp_path)[0].generate(TOKENS, **settings), written)
    apply(folded, replacement_for(folded, find_sites(folded).site("layers.0.attn"), Zero(32)))


def test_layers_that_do_more_between_their_parts_stay():
    """Granite's multiply what a sublayer writes; one of these by one."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GraniteConfig(vocab_size=96, residual_multiplier=0.5, attention_multiplier=8**-0.5, **sizes)
    model = GraniteForCausalLM(config).eval().requires_grad_(False)
    model.model.layers[0].residual_multiplier = 1.0
    apply(model, rewritten(model)[0])
    fold = series_layers.fold(model, find_sites(model))
    assert [edit.path for edit in fold.written] == ["model.layers.0"]
    assert fold.notes == ("layers.1 stays: it does something else between its parts than adding what they write.",)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_models_without_such_layers_are_refused(name):
    model = BY_NAME[name].model().requires_grad_(False)
    if name == "gemma3":
        apply(model, rewritten(model)[0])  # with norms behind its sublayers too
    with pytest.raises(UserError, match="No layer consists of"):
        series_layers.fold(model, find_sites(model))


def test_a_run_keeps_it_where_it_is_faster(tmp_path, monkeypatch):
    for ratio, kept in ((0.5, True), (1.0, False)):
        monkeypatch.setattr(folding, "ratio", lambda *args, ratio=ratio: ratio)
        model, _ = rewritten_llama()
        workspace = Workspace(tmp_path / f"run-{kept}", {})
        records, edits = fold_where_it_pays(model, Shape("decode", 1, 16), workspace, "mix")
        workspace.close()
        record = next(record for record in records if record["name"] == "series_layers")
        assert record["kept"] == kept
        assert record["params"] == record["bytes"] == record["flops"] == 1
        assert bool(edits) == kept
