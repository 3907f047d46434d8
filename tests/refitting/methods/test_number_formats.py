"""Number formats that run only when named: thresholds by hand, experts of real mixtures, and who is refused."""

import pytest
import torch
import transformers as tf

from layersmith.anatomy import Replay, find_sites
from layersmith.ffn.swap_test import SwapTest
from layersmith.linear.fp4 import FP4Linear
from layersmith.linear.int8_static import Int8Static
from layersmith.refitting import methods
from layersmith.refitting.build.block_library import LibrarySettings, build_library
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.methods.quantize.int8_static import DECAY, thresholds
from layersmith.refitting.methods.quantize.moqe import mixture
from layersmith.runs.workspace import Workspace
from tests.anatomy.families import BY_NAME
from tests.refitting.conftest import VOCABULARY, tiny_batches, tiny_llama

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
MIXTURES = {
    "mixtral": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(intermediate_size=24, num_local_experts=4, **SIZES)),
    "olmoe": lambda: tf.OlmoeForCausalLM(
        tf.OlmoeConfig(intermediate_size=24, num_experts=4, num_experts_per_tok=2, norm_topk_prob=False, **SIZES)
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(
            moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, head_dim=8, norm_topk_prob=True, **SIZES
        )
    ),
}


def view_of(model, tmp_path, site="layers.1.ffn"):
    model = model.eval().requires_grad_(False)
    anatomy, workspace = find_sites(model), Workspace(tmp_path / "run", {})
    made = Activations(Replay(model, anatomy), anatomy, tiny_batches(), workspace)
    made.calibrate()
    found = made.view(anatomy.site(site))
    workspace.close()
    return found


def test_thresholds_are_the_moving_average_of_each_batch_s_largest_input(view):
    at = view("layers.1.ffn")
    seen = []
    hook = at.model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for call in at.fit:
        at.run([], [call])
    hook.remove()
    peaks = [float(x.abs().max()) for x in seen]
    assert len(set(peaks)) == len(at.fit) == 4
    expected = peaks[0]
    for peak in peaks[1:]:
        expected = DECAY * expected + (1 - DECAY) * peak
    assert thresholds(at)["model.layers.1.mlp.down_proj"] == pytest.approx(expected, rel=1e-5)
    parts = {edit.path: part for edit, part in methods.get("int8_static").build(at, {})}
    part = parts["model.layers.1.mlp.down_proj"]
    assert isinstance(part, Int8Static)
    assert part.threshold.item() == pytest.approx(expected, rel=1e-5)


def test_padding_sets_no_threshold(view):
    at = view("layers.1.ffn")
    before = thresholds(at)
    for call in at.fit:
        call.mask = torch.ones(call.input.shape[:2], dtype=torch.bool)
        call.mask[:, -4:] = False
        call.args = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in call.args)
        call.args[0][:, -4:] *= 100
    vars(at).pop("_moments", None)
    after = thresholds(at)
    assert all(after[path] <= 1.0001 * before[path] for path in before)


@pytest.mark.parametrize("name", ["int8_static", "fp4", "block_shift"])
def test_rounding_loses_what_the_format_says(name, view):
    at = view("layers.1.ffn")
    method = methods.get(name)
    errors = [at.local_error(method.build(at, settings)) for settings in method.options(at)]
    assert 0 < errors[0] < {"int8_static": 1e-2, "fp4": 0.1, "block_shift": 1e-3}[name]


def test_smaller_blocks_are_closer_at_equal_bits(view):
    at, method = view("layers.1.attn"), methods.get("block_shift")
    errors = {tuple(s.values()): at.local_error(method.build(at, s)) for s in method.options(at)}
    assert errors[8, 16] < errors[8, 64] < errors[4, 16] < errors[4, 64]


def test_fp4_offers_the_formats_whose_blocks_divide(view, monkeypatch):
    method, at = methods.get("fp4"), view("layers.1.ffn")
    assert [s["format"] for s in method.options(at)] == ["nvfp4", "mxfp4"]
    odd = {"a": torch.nn.Linear(48, 4), "b": torch.nn.Linear(64, 4)}
    monkeypatch.setattr(type(at), "linears", lambda self: odd)
    assert method.options(at) == [{"format": "nvfp4"}]
    assert isinstance(method.build(at, {"format": "nvfp4"})[0][1], FP4Linear)
    odd["a"] = torch.nn.Linear(40, 4)
    assert "[40, 64]" in method.unsupported_reason(at)


@pytest.mark.parametrize("shape", MIXTURES)
def test_experts_of_transformers_are_rounded_and_their_router_is_not(shape, tmp_path):
    torch.manual_seed(0)
    at = view_of(MIXTURES[shape](), tmp_path)
    method = methods.get("moqe")
    assert method.unsupported_reason(at) is None
    experts = at.model.get_submodule(at.site.modules[0]).experts
    errors = []
    for settings in method.options(at):
        replacement = method.build(at, settings)
        part = replacement[0][1]
        assert part.n_experts == 4
        assert part.renormalize == (shape != "olmoe")
        assert torch.equal(part.router, at.model.get_submodule(at.site.modules[0]).gate.weight)
        step = experts.down_proj.abs().amax(-1, keepdim=True) / (2 ** (settings["bits"] - 1) - 1)
        assert ((part.weight("down") - experts.down_proj).abs() <= 0.501 * step).all()
        errors.append(at.local_error(replacement))
    assert errors == sorted(errors)
    assert errors[0] < 1e-3


def test_a_dense_feed_forward_is_one_expert(view):
    at = view("layers.1.ffn")
    moe = mixture(at)
    assert (moe.n_experts, moe.k) == (1, 1)
    torch.testing.assert_close(moe(at.inputs), at.outputs, rtol=1e-4, atol=1e-4)


def test_what_is_no_known_mixture_is_refused(tmp_path):
    torch.manual_seed(0)
    shared = tf.Qwen2MoeForCausalLM(
        tf.Qwen2MoeConfig(
            intermediate_size=24,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=24,
            num_experts=4,
            num_experts_per_tok=2,
            **SIZES,
        )
    )
    at = view_of(shared, tmp_path)  # a shared expert stands beside those that are chosen
    assert "no mixture of a known form" in methods.get("moqe").unsupported_reason(at)


def test_a_feed_forward_with_biases_is_refused(tmp_path):
    model = BY_NAME["gpt2"].model()
    anatomy, workspace = find_sites(model), Workspace(tmp_path / "run", {})
    few = tiny_batches()
    for batches in vars(few).values():
        for batch in batches:
            batch["input_ids"] %= 90
    made = Activations(Replay(model, anatomy), anatomy, few, workspace)
    made.calibrate()
    assert "biases" in methods.get("moqe").unsupported_reason(made.view(anatomy.site("layers.1.ffn")))
    workspace.close()


def test_a_part_that_reads_the_weight_of_a_map_refuses_a_format_and_the_others_take_it(tmp_path):
    model = tiny_llama(layers=2)
    for layer in model.model.layers:
        layer.mlp = SwapTest(32, 16).eval().requires_grad_(False)
    anatomy, workspace = find_sites(model), Workspace(tmp_path / "run", {})
    made = Activations(Replay(model, anatomy), anatomy, tiny_batches(), workspace)
    made.calibrate()
    settings = LibrarySettings(["int8_dynamic"], ["layers.0.ffn", "layers.0.attn"], distill_steps=0)
    library, reports = build_library(made, workspace, settings, {})
    assert "whose weights its code may read" in reports["layers.0.ffn"].refusals["int8_dynamic"]
    assert [c.site for c in library.usable()] == ["layers.0.attn"]
    workspace.close()
