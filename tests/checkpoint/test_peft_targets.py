"""PEFT on a result: `all-linear` reaches every linear map that an adapter can stand on, and no other."""

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy.edit import Edit, apply
from layersmith.checkpoint import save
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.low_rank import LowRank
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import output

peft = pytest.importorskip("peft")

LLAMA = BY_NAME["llama"].inputs()
CODED, FACTORED = "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"


@pytest.fixture
def result(tmp_path):
    torch.manual_seed(0)
    model = BY_NAME["llama"].model()
    weights = {path: model.get_submodule(path).weight.detach() for path in (CODED, FACTORED)}
    parts = {
        CODED: Int8Dynamic.from_weight(weights[CODED]),
        FACTORED: LowRank(weights[FACTORED].shape[1], weights[FACTORED].shape[0], rank=4),
    }
    replacement = [(Edit(path, part.spec(), {}), part) for path, part in parts.items()]
    apply(model, replacement)
    save(model, [edit for edit, _ in replacement], tmp_path / "model")
    return tf.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)


def test_all_linear_reaches_what_an_adapter_can_stand_on(result):
    before = output(result, LLAMA)
    linear = {name for name, module in result.named_modules() if type(module) is nn.Linear}
    adapted = peft.get_peft_model(result, peft.LoraConfig(target_modules="all-linear", r=2))
    reached = {
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A") and len(module.lora_A)
    }
    assert reached == linear - {"base.lm_head"}
    assert any(name.startswith(f"base.{FACTORED}.") for name in reached), "both maps of a factored one"
    assert not any(name.startswith(f"base.{CODED}") for name in reached), "codes have no gradient"
    assert torch.allclose(output(adapted, LLAMA), before, atol=1e-5)


def test_an_adapter_trains_through_codes_and_merges(result):
    adapted = peft.get_peft_model(result, peft.LoraConfig(target_modules="all-linear", r=2))
    adapted.train()
    first = adapted(**LLAMA, labels=LLAMA["input_ids"]).loss
    first.backward()
    gradients = [p.grad for p in adapted.parameters() if p.requires_grad]
    assert gradients
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    optimizer.step()
    merged = output(adapted.eval(), LLAMA)
    plain = adapted.merge_and_unload()
    assert torch.allclose(output(plain, LLAMA), merged, atol=1e-4)


def test_asked_for_by_name_a_map_of_codes_is_refused_by_peft(result):
    with pytest.raises(ValueError, match="Int8Dynamic"):
        peft.get_peft_model(result, peft.LoraConfig(target_modules=["mlp.down_proj"], r=2))
