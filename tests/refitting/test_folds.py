"""Folds leave a model's function as it is, in float64 to 1e-10, also after saving; what cannot be folded is refused."""

import copy

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.edit import Edit, apply
from layersmith.checkpoint import load, save
from layersmith.errors import UserError
from layersmith.ffn.affine import Affine
from layersmith.ffn.mlp import MLP
from layersmith.linear.dense import Dense
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.low_rank import LowRank
from layersmith.norm.rms_norm import RMSNorm
from layersmith.refitting.prove.folds import fold as folds
from layersmith.refitting.prove.folds import gain, linear_merge, pre_rms_norm
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import generated, output

PRE_LN = ("gpt2", "opt", "gpt_neox", "vit")


def shaken(name, eps=0.1):
    """The family's model with random biases and gains, means, and a large eps, so that each makes a difference.

    eps  None leaves it: for models whose own norms are saved, since it is the config that says what it is
    """
    model = BY_NAME[name].model()
    with torch.no_grad():
        for parameter in model.parameters():
            # A constant in every matrix and table gives the stream a mean worth removing.
            parameter.add_(0.5 * torch.randn_like(parameter) if parameter.dim() == 1 else 0.1)
    for module in model.modules():
        for attribute in ("eps", "variance_epsilon"):
            if eps is not None and hasattr(module, attribute):
                setattr(module, attribute, eps)
    return model


def difference(model, fold, inputs):
    """How far the folded model's output is from the model's, relative to its size; undone afterwards."""
    expected = output(model, inputs)
    undo = fold.apply(model)
    found = output(model, inputs)
    undo()
    assert torch.equal(output(model, inputs), expected)
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", PRE_LN)
def test_pre_rms_norm_is_exact(name):
    model, family = shaken(name).double(), BY_NAME[name]
    inputs = {k: t.double() if t.is_floating_point() else t for k, t in family.inputs().items()}
    fold = pre_rms_norm.fold(model, find_sites(model))
    assert difference(model, fold, inputs) < 1e-10
    fold.apply(model)
    assert not any(isinstance(module, nn.LayerNorm) for module in model.modules())
    assert sum(isinstance(module, RMSNorm) for module in model.modules()) == 5


def test_the_stream_is_centred():
    """Not only are the outputs the same: no hidden state between the blocks has a mean any more."""
    model, inputs = shaken("gpt2"), BY_NAME["gpt2"].inputs()
    before = model(**inputs, output_hidden_states=True).hidden_states[:-1]
    pre_rms_norm.fold(model, find_sites(model)).apply(model)
    after = model(**inputs, output_hidden_states=True).hidden_states[:-1]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old - old.mean(-1, keepdim=True), rtol=1e-4, atol=1e-4)
        assert old.mean(-1).abs().max() > 0.05


@pytest.mark.parametrize("name", PRE_LN)
def test_pre_rms_norm_in_float32(name):
    model = shaken(name)
    assert difference(model, pre_rms_norm.fold(model, find_sites(model)), BY_NAME[name].inputs()) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_a_tied_head_keeps_its_table(name):
    model = shaken(name)
    table = model.get_input_embeddings().weight.detach().clone()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    fold = pre_rms_norm.fold(model, find_sites(model))
    assert fold.notes == (
        f"lm_head.weight was one with {_table_name(model)}; it stays as it was, and is now stored beside it.",
    )
    undo = fold.apply(model)
    assert torch.equal(model.lm_head.weight, table)
    assert model.get_input_embeddings().weight.mean(-1).abs().max() < 1e-6
    assert not model.config.tie_word_embeddings
    undo()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, table)
    assert model.config.tie_word_embeddings


def _table_name(model):
    return next(n for n, p in model.named_parameters() if p is model.get_input_embeddings().weight)


@pytest.mark.parametrize("name", PRE_LN)
def test_pre_rms_norm_is_saved(name, tmp_path):
    model, family = shaken(name), BY_NAME[name]
    fold = pre_rms_norm.fold(model, find_sites(model))
    fold.apply(model)
    save(model, fold.written, tmp_path)
    again, _ = load(tmp_path)
    assert torch.equal(output(again, family.inputs()), output(model, family.inputs()))
    if family.generates:
        assert torch.equal(generated(again, family.inputs()), generated(model, family.inputs()))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llama", "layers.0.attn_norm is a LlamaRMSNorm, not a LayerNorm: there is no mean subtraction to take out"),
        ("t5", "is a T5LayerNorm, not a LayerNorm"),
        ("bert", r"stands on the residual stream itself \(Post-LN\)"),
        ("opt_post_norm", r"stands on the residual stream itself \(Post-LN\)"),
        ("dinov2", r"layer_scale1 \(Dinov2LayerScale\) computes with 'mul'"),
        ("whisper", r"embed_positions \(WhisperPositionalEmbedding\) computes with 'index'"),
    ],
)
def test_pre_rms_norm_refuses(name, reason):
    model = BY_NAME[name].model()
    with pytest.raises(UserError, match=reason):
        pre_rms_norm.fold(model, find_sites(model))


def test_a_stream_read_without_a_norm_is_refused():
    """OPT without its final norm: the head reads the stream's mean, which only the trial run shows."""
    config = copy.deepcopy(BY_NAME["opt"].model().config)
    config._remove_final_layer_norm = True
    model = tf.OPTForCausalLM(config).eval()
    with pytest.raises(UserError, match="changes what OPTForCausalLM computes: by"):
        pre_rms_norm.fold(model, find_sites(model))


def test_torchs_own_attention_is_refused():
    model = BY_NAME["torch_pre_norm"].model()
    with pytest.raises(UserError, match=r"self_attn \(MultiheadAttention\) computes with"):
        pre_rms_norm.fold(model, find_sites(model))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_linear_feed_forward_is_merged(name, tmp_path):
    """With biases in GPT-2's own feed-forward; without them, as our `mlp` inside a Llama."""
    model, inputs = shaken(name, eps=None), BY_NAME[name].inputs()
    anatomy, edits = find_sites(model), []
    if name == "gpt2":
        for block in model.transformer.h:
            block.mlp.act = nn.Identity()
    else:
        torch.manual_seed(0)
        for site in anatomy.of_kind("ffn"):
            edits += replacement_for(model, site, MLP(32, 48, act="identity", bias=False))
        apply(model, edits)
    twin = copy.deepcopy(model).double()
    exact = linear_merge.merge(twin, anatomy)
    assert difference(twin, exact, inputs) < (1e-10 if name == "gpt2" else 1e-6)  # Llama's norms round to float32
    fold = linear_merge.merge(model, anatomy)
    fold.apply(model)
    assert [type(model.get_submodule(site.modules[0])) for site in anatomy.of_kind("ffn")] == [Affine, Affine]
    save(model, fold.written, tmp_path)
    again, _ = load(tmp_path)
    assert torch.equal(output(again, inputs), output(model, inputs))


@pytest.mark.parametrize(("rank", "merged"), [(13, False), (20, True)])
def test_a_low_rank_that_saves_nothing_is_merged(rank, merged, tmp_path):
    """Llama's down_proj is 32 x 48: a rank of 19.2 needs as many weights as the matrix."""
    model, inputs = shaken("llama"), BY_NAME["llama"].inputs()
    part = LowRank.from_weight(model.model.layers[0].mlp.down_proj.weight, rank)
    edits = [Edit("model.layers.0.mlp.down_proj", part.spec(), {})]
    apply(model, [(edits[0], part)])
    anatomy = find_sites(model)
    if not merged:
        with pytest.raises(UserError, match="There is nothing to merge"):
            linear_merge.merge(model, anatomy)
        return
    fold = linear_merge.merge(model, anatomy)
    assert difference(model, fold, inputs) < 1e-6
    fold.apply(model)
    save(model, fold.written, tmp_path)
    again, _ = load(tmp_path)
    assert isinstance(again.base.model.layers[0].mlp.down_proj, Dense)


@pytest.mark.parametrize("factors", [("u",), ("v",), ("u", "v")], ids="".join)
def test_a_low_rank_in_a_number_format_stays(factors):
    model = shaken("llama")
    part = LowRank.from_weight(model.model.layers[0].mlp.down_proj.weight, 20)
    for name in factors:
        factor = getattr(part, name)
        setattr(part, name, Int8Dynamic(factor.in_features, factor.out_features))
    apply(model, [(Edit("model.layers.0.mlp.down_proj", part.spec(), {}), part)])
    with pytest.raises(UserError, match="There is nothing to merge"):
        linear_merge.merge(model, find_sites(model))


def test_a_narrow_linear_feed_forward_stays():
    """32 x 16 and 16 x 32 are no more work than their product, 32 x 32."""
    model = shaken("llama")
    apply(model, replacement_for(model, find_sites(model).site("layers.0.ffn"), MLP(32, 16, act="identity")))
    with pytest.raises(UserError, match="There is nothing to merge"):
        linear_merge.merge(model, find_sites(model))


def test_a_relu_that_is_always_on_is_not_merged():
    model = shaken("opt")
    for layer in model.model.decoder.layers:
        nn.init.constant_(layer.fc1.bias, 100.0)
    with pytest.raises(UserError, match="two linear maps with nothing in between"):
        linear_merge.merge(model, find_sites(model))


def test_folds_stand_on_each_other(tmp_path):
    """RMSNorms first, then their gains: edits and weights of both, saved together."""
    model, inputs = shaken("opt"), BY_NAME["opt"].inputs()
    expected = output(model, inputs)
    first = pre_rms_norm.fold(model, find_sites(model))
    first.apply(model)
    second = gain.fold_gain(model, find_sites(model))
    second.apply(model)
    assert (output(model, inputs) - expected).abs().max() < 1e-5 * expected.abs().max()
    save(model, [*first.written, *second.written], tmp_path)
    again, _ = load(tmp_path)
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_a_wrong_fold_is_caught():
    model = shaken("gpt2")
    name = "transformer.h.0.mlp.c_proj.bias"
    with pytest.raises(UserError, match="in torch"):
        folds.proved(model, lambda m: folds.Fold({name: m.get_parameter(name).detach() * (1 + 1e-6)}, []))


def test_an_edit_that_fails_leaves_the_weights():
    model = shaken("gpt2")
    name, part = "transformer.h.0.mlp.c_proj.bias", RMSNorm(32)
    old = model.get_parameter(name)
    with pytest.raises(UserError, match="no module at"):
        folds.Fold({name: torch.zeros(32)}, [(Edit("nowhere", part.spec(), {}), part)]).apply(model)
    assert model.get_parameter(name) is old


def test_a_model_that_does_not_run_in_float64():
    model = BY_NAME["mixtral"].model()
    with pytest.raises(UserError, match="does not run in float64"):
        gain.fold_gain(model, find_sites(model))
