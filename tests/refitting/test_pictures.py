"""A whole run on a model that sees: no tokenizer, no text, and a report all the same."""

import json

import torch
from transformers import ViTConfig, ViTForImageClassification

from layersmith.refitting.pipeline import refit


def test_a_model_of_pictures_is_refitted_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("layersmith.data.pictures.find_spec", lambda name: None)  # the drawn set, which is larger
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=5, **sizes))
    model.classifier.weight.data *= 30  # or every change is as good as none, and nothing is healed
    model.save_pretrained(tmp_path / "vit")
    result = refit(
        str(tmp_path / "vit"),
        budget={"params": 0.9},
        out=tmp_path / "run",
        methods=["linear"],
        at="prefill=1x5",
        effort=0.05,
        distill_steps=0,
        heal_tokens=1024,
        progress=False,
    )
    assert result["chosen"]["meets_budget"]
    assert result["heal"]["steps"] == 1
    assert result["chosen"]["samples"] == []
    assert result["chosen"]["measured"]["divergence_kind"] == "kl"
    assert "small embedded set" in result["data"]["pictures"]
    assert result["data"]["report_examples"] == 128
    assert json.loads((tmp_path / "run" / "result.json").read_text())["data"] == result["data"]
    assert "small embedded set" in (tmp_path / "run" / "report.html").read_text()
