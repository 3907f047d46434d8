"""Models whose layers are blocks: short specs of them, shared layers, caches, and what old configs still mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from layersmith.errors import UserError
from layersmith.measuring.flops import count_flops
from layersmith.model import TransformerConfig, TransformerLM
from layersmith.model.spec import expand, own_code, read_spec
from layersmith.model.task_model import Ends, build, fit_width

SMALL = {"d_model": 16, "n_layers": 1, "ffn": {"name": "glu", "d_hidden": 24}}
INNER = [{"mixer": "deltanet"}, {}]
SPECS: dict[str, dict[str, Any]] = {
    "parallel": {"block": "parallel", "n_layers": 2},
    "looped": {"block": {"name": "looped", "times": 3, "inject": True, "layers": INNER}},
    "pre, loop, post": {"layers": [{}, {"block": {"name": "looped", "times": 2}}, {"mixer": "deltanet"}]},
    "halting": {"block": {"name": "halting", "times": 3, "layers": INNER, "threshold": 0.6}},
    "layer_mix": {"block": {"name": "layer_mix", "layers": [{}, *INNER]}},
    "skip_middle": {"block": {"name": "skip_middle", "layers": [{}, *INNER], "bias": 0.4}},
    "learngene": {"block": {"name": "learngene", "depth": 3, "layer": {"mixer": "deltanet"}}},
    "loop of parallels": {"block": {"name": "looped", "layers": [{"block": "parallel"}]}},
    "shared": {"n_layers": 3, "order": [0, 1, 1, 2]},
    "looped and shared": {"n_layers": 2, "order": [0, 1, 0], "loops": 2},
}
EVERY = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def model(spec: dict[str, Any], vocab: int = 23) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(expand(read_spec({**SMALL, **spec}), vocab)).double().eval()


@EVERY
@torch.no_grad()
def test_generation_with_a_cache_is_that_without(spec: dict[str, Any]) -> None:
    lm, ids = model(spec), torch.randint(1, 23, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    settings = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached = lm.generate(ids, **settings)
    assert torch.equal(cached, lm.generate(ids, **settings, use_cache=False))
    alone = lm.generate(ids[:1, 2:], **{**settings, "attention_mask": mask[:1, 2:]})
    assert torch.equal(cached[:1, 6:], alone[:, 4:])


@EVERY
def test_it_is_the_model_of_a_race_and_costs_what_it_does(spec: dict[str, Any]) -> None:
    lm = model(spec)
    raced = build(read_spec({**SMALL, **spec}), Ends("tokens", "tokens", 23, 23, 9, causal=True)).double().eval()
    renamed = {k.replace("embed_tokens.", "embed.").replace("lm_head.", "head."): v for k, v in lm.state_dict().items()}
    raced.load_state_dict(renamed)
    ids = torch.randint(23, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(raced(ids), lm(input_ids=ids).logits)
        counted = count_flops(lambda: raced(ids))
    assert raced.cost().flops == pytest.approx(counted, rel=0.05)


@torch.no_grad()
def test_a_saved_model_has_every_shared_layer_once(tmp_path: Any) -> None:
    shared = model(SPECS["shared"]).float()
    shared.save_pretrained(tmp_path)
    assert {int(name.split(".")[1]) for name in load_file(tmp_path / "model.safetensors") if "layers." in name} == {
        0,
        1,
        2,
    }
    again, ids = AutoModelForCausalLM.from_pretrained(tmp_path), torch.randint(23, (1, 5))
    assert again.config.order == [0, 1, 1, 2]
    torch.testing.assert_close(again(input_ids=ids).logits, shared(input_ids=ids).logits, atol=0, rtol=0)
    whole = model({"n_layers": 4}).float()
    for place, index in enumerate(shared.config.order):
        whole.layers[place].load_state_dict(shared.layers[index].state_dict())
    rest = {k: v for k, v in shared.state_dict().items() if not k.startswith("layers.")}
    whole.load_state_dict(rest, strict=False)
    torch.testing.assert_close(whole(input_ids=ids).logits, shared(input_ids=ids).logits)
    assert whole.num_parameters() - shared.num_parameters() == sum(p.numel() for p in whole.layers[0].parameters())


@EVERY
def test_checkpointing_changes_no_gradient(spec: dict[str, Any]) -> None:
    lm, ids = model(spec).train(), torch.randint(23, (2, 7))

    def gradients() -> dict[str, Any]:
        lm.zero_grad()
        lm(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad for name, p in lm.named_parameters()}

    kept = gradients()
    lm.activation_checkpointing_enable()
    assert lm.gradient_checkpointing
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, kept[name], msg=name)


def test_a_config_saved_before_there_were_blocks_means_what_it_did(tmp_path: Any) -> None:
    norm, ffn = {"name": "rms_norm"}, {"name": "mlp", "d_hidden": 8}
    mixer = {"name": "softmax_attention", "n_heads": 2}
    layer = {"norm": norm, "mixer": mixer, "ffn_norm": norm, "ffn": ffn}
    macaron = {**layer, "first": {"norm": norm, "ffn": ffn}, "residual": {"mixer": [1.0, 1.0], "ffn": [1.0, 0.5]}}
    saved = {
        "model_type": "layersmith_transformer",
        "architectures": ["TransformerLM"],
        "vocab_size": 11,
        "d_model": 8,
        "layers": [layer, macaron, {**layer, "sub_norm": norm}],
        "norm_position": "pre",
        "loops": 2,
        "embed_scale": 2.0,
        "final_norm": norm,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
    }
    (tmp_path / "config.json").write_text(json.dumps(saved))
    config = TransformerConfig.from_pretrained(tmp_path)
    lm = TransformerLM(config)
    assert config.steps == [0, 1, 2]
    assert {name for name, _ in lm.layers[1].named_parameters()} >= {
        "first_ffn.up.weight",
        "ffn_norm.weight",
        "norm.weight",
    }
    assert {name for name, _ in lm.layers[2].named_parameters()} >= {"mixer.o.norm.weight", "ffn.down.linear.weight"}
    assert lm(input_ids=torch.randint(11, (1, 4))).logits.isfinite().all()


def test_short_specs_say_what_is_inside() -> None:
    config = expand(read_spec({**SMALL, **SPECS["looped"], "norm_position": "pre"}), 8)
    (block,) = config.layers
    assert [layer["mixer"]["name"] for layer in block["layers"]] == ["deltanet", "softmax_attention"]
    assert all(layer["ffn"]["d_hidden"] == 24 and layer["mixer"]["n_heads"] == 2 for layer in block["layers"])
    parallel = expand(read_spec({**SMALL, "block": "parallel", "mixer": "deltanet"}), 8).layers[0]
    assert set(parallel) == {"name", "norm", "mixer", "ffn"}
    own = read_spec({"block": {"name": "looped", "layers": [{"mixer": {"name": "my.parts:Mixer"}}]}})
    assert own_code(own) == ["my.parts:Mixer"]
    fitted = fit_width(read_spec(SPECS["looped"]), Ends("tokens", "tokens", 64, 64, 8, causal=True), params=60_000)
    assert fitted.d_model > 16


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"block": "parallell"}, "Did you mean 'parallel'"),
        ({"block": "glu"}, "of the family 'ffn'"),
        ({"block": {"name": "looped", "layers": [{"mixer": "glu"}]}}, "of the family 'ffn'"),
        ({"block": {"name": "looped", "layers": 2}}, "a list of layers"),
        ({"block": "parallel", "macaron": True}, "give one of them"),
        ({"order": "012"}, "a list of numbers"),
    ],
    ids=str,
)
def test_specs_of_blocks_that_say_nothing_that_can_be_built(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_spec(given)


def test_configs_of_blocks_that_say_nothing_that_can_be_built() -> None:
    with pytest.raises(UserError, match="each of these stands once or more"):
        expand(read_spec({"n_layers": 3, "order": [0, 2]}), 8)
    blind = {"name": "softmax_attention", "causal": False}
    with pytest.raises(UserError, match=r"layer 0.*not causal"):
        TransformerLM(expand(read_spec({**SMALL, "block": {"name": "looped", "layers": [{"mixer": blind}]}}), 8))
    with pytest.raises(UserError, match=r"Layer 0 of the model cannot be built: .*times"):
        TransformerLM(expand(read_spec({**SMALL, "block": {"name": "looped", "times": 0}}), 8))
