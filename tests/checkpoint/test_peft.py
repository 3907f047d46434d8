"""An adapter on a result does what it does on the stock model: PEFT wraps the same matrices, and merging is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from layersmith.checkpoint import save
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited, output

peft = pytest.importorskip("peft", reason="PEFT is not installed (pip install '.[dev]')")

LLAMA = BY_NAME["llama"].inputs()
PARTS = {
    "a narrower feed-forward": {"ffn": {"name": "glu", "d_hidden": 16}},
    "another attention": {"attn": {"name": "linear_attention", "n_heads": 4}},
    "a dropped block": {"layers_1": {"name": "zero"}, "layers_0_ffn": {"name": "glu", "d_hidden": 16}},
}


def adapted(model: Any) -> Any:
    """With a LoRA adapter at every linear map that is not the head, its second factors not zero."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", lora_alpha=8))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return wrapped.eval()


def moved(model: Any) -> tuple[float, float, list[str]]:
    """(how far the adapter moves the logits, how far merging it then does, which modules it wraps)."""
    before = output(model, LLAMA)
    wrapped = adapted(model)
    with_adapter = output(wrapped, LLAMA)
    names = [name for name, module in wrapped.named_modules() if isinstance(module, peft.tuners.lora.Linear)]
    merged = output(wrapped.merge_and_unload(), LLAMA)
    return float((with_adapter - before).abs().max()), float((merged - with_adapter).abs().max()), names


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS.keys())
def test_merging_an_adapter_changes_nothing(parts: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    """A tied head that is wrapped too moves the logits by as much as the adapter does."""
    original, changed, edits = edited(**parts)
    if tied:
        changed.config.tie_word_embeddings = original.config.tie_word_embeddings = True
        changed.tie_weights()
        original.tie_weights()
    save(changed, edits, tmp_path / "model")
    result = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    for model in (result, original):
        by_adapter, by_merging, names = moved(model)
        assert by_adapter > 0.01
        assert by_merging <= 1e-5 * max(1.0, float(output(original, LLAMA).abs().max()))
        assert names
        assert not any("lm_head" in name for name in names)


def test_an_adapter_is_saved_and_loaded_over_a_result(tmp_path: Path) -> None:
    _, changed, edits = edited(ffn={"name": "glu", "d_hidden": 16})
    save(changed, edits, tmp_path / "model")
    open_again = tf.AutoModelForCausalLM.from_pretrained
    wrapped = adapted(open_again(tmp_path / "model", dtype=torch.float32))
    expected = output(wrapped, LLAMA)
    wrapped.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(open_again(tmp_path / "model", dtype=torch.float32), tmp_path / "adapter")
    assert torch.equal(output(again.eval(), LLAMA), expected)
