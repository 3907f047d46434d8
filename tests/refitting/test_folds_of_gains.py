"""Gains of norms folded into what reads them: exact, and left where that is not possible."""

import copy

import pytest
import torch
import transformers as tf

from layersmith.anatomy import find_sites
from layersmith.checkpoint import save_result
from layersmith.errors import UserError
from layersmith.refitting.prove.folds import gain
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import output
from tests.refitting.test_folds import difference, shaken

PRE_LN = ("gpt2", "opt", "gpt_neox", "vit")


@pytest.mark.parametrize("name", [*PRE_LN, "llama", "gemma3", "qwen3", "whisper", "t5"])
def test_gains_are_folded(name):
    model, family = shaken(name).double(), BY_NAME[name]
    inputs = {k: t.double() if t.is_floating_point() else t for k, t in family.inputs().items()}
    fold = gain.fold_gain(model, find_sites(model))
    # The RMSNorms of transformers compute in float32 whatever they are given.
    assert difference(model, fold, inputs) < (1e-6 if name in ("llama", "gemma3", "qwen3", "t5") else 1e-10)
    neutral = 0.0 if name == "gemma3" else 1.0
    fold.apply(model)
    kept = [note.split(" keeps")[0] for note in fold.notes]
    for site in find_sites(model).of_kind("norm"):
        norm = model.get_submodule(site.modules[0])
        assert bool((norm.weight == neutral).all()) != (site.name in kept)


@pytest.mark.parametrize("zero", [False, True])
def test_a_bias_without_a_place(zero):
    """A reader without a bias: the norm keeps b / g. With a gain of zero that is impossible, and said."""
    model = shaken("gpt_neox").double()
    norm = model.gpt_neox.final_layer_norm
    assert model.get_output_embeddings().bias is None
    if zero:
        norm.weight.data[3] = 0.0
    fold = gain.fold_gain(model, find_sites(model))
    assert difference(model, fold, BY_NAME["gpt_neox"].inputs()) < 1e-10
    if zero:
        assert len(fold.notes) == 1
        assert fold.notes[0].startswith("final_norm keeps its gain: it has a bias, a reader without one")
    else:
        torch.testing.assert_close(fold.weights["gpt_neox.final_layer_norm.bias"], norm.bias / norm.weight)
        assert fold.notes == ()


def test_gains_that_stay():
    model = shaken("gpt2")
    (note,) = gain.fold_gain(model, find_sites(model)).notes
    assert note == (
        "final_norm keeps its gain: lm_head, which reads it, shares its weights with transformer.wte.weight."
    )
    albert = shaken("albert")
    with pytest.raises(UserError, match=r"No norm's gain can be folded into linear maps\. layers.0.attn_norm keeps"):
        gain.fold_gain(albert, find_sites(albert))


def test_a_reader_of_two_norms_takes_neither_gain():
    model = shaken("gpt2")
    model.transformer.h[1].mlp = model.transformer.h[0].mlp
    notes = gain.fold_gain(model, find_sites(model)).notes
    kept = [note for note in notes if note.endswith("transformer.h.0.mlp.c_fc reads other things too.")]
    assert [note.split(" keeps")[0] for note in kept] == ["layers.0.ffn_norm", "layers.1.ffn_norm"]


def test_a_folded_llama_is_a_llama(tmp_path):
    model, inputs = shaken("llama", eps=None), BY_NAME["llama"].inputs()
    original = copy.deepcopy(model)
    fold = gain.fold_gain(model, find_sites(model))
    fold.apply(model)
    assert save_result(model, original, fold.written, tmp_path) == "stock"
    again = tf.LlamaForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(output(again, inputs), output(original, inputs), rtol=1e-5, atol=1e-5)
    assert bool((again.model.norm.weight == 1).all())
