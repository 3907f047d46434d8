"""A budget of cache is met by the cache that the saved model really keeps, whatever kinds of cache its mixers have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from layersmith.checkpoint import load, verify
from layersmith.measuring.cost import model_cost
from layersmith.measuring.inputs import example_inputs
from layersmith.measuring.shape import Shape
from layersmith.refitting.pipeline import refit
from tests.architectures.every import EVERY
from tests.architectures.sweep import _reloaded_here, text, tokenizer_for

BATCH, TOKENS = 1, 24


def kept(model: Any) -> int:
    """Bytes of keys and values after the tokens, read off the cache's own layers."""
    with torch.no_grad():
        cache = model(**example_inputs(model, BATCH, TOKENS), use_cache=True).past_key_values
    halves = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    layers = [layer for half in halves if half for layer in half.layers] or cache.layers
    return sum(4 * (layer.keys.numel() + layer.values.numel()) for layer in layers)


@pytest.mark.parametrize("at", ["decode", pytest.param("prefill", marks=pytest.mark.real)])
@pytest.mark.parametrize("name", ["gemma3", "mistral_window", "lfm2", "t5", "recurrent_gemma"])
def test_what_is_promised_is_what_the_saved_model_keeps(
    name: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows, convolution states, cross-attention and states in modules: none is credited with another's cache."""
    monkeypatch.setattr(verify, "_run", _reloaded_here)
    model = EVERY[name].model()
    result = refit(
        model,
        tokenizer=tokenizer_for(model.config),
        data=str(text(tmp_path / "words.txt")),
        budget={"kv": 0.8},
        methods=["drop", "kv_merge"],
        at=f"{at}={BATCH}x{TOKENS}",
        heal_tokens=0,
        distill_steps=0,
        effort=0.01,
        out=tmp_path / "run",
        progress=False,
    )
    found, before = result["chosen"], result["baseline"]["kv_bytes"]
    if name in ("gemma3", "mistral_window", "t5"):
        assert before == kept(model)
    assert found["predicted"]["kv_bytes"] == found["measured"]["kv_bytes"] <= 0.8 * before
    saved, _ = load(tmp_path / "run" / "model")
    assert model_cost(saved, Shape(at, BATCH, TOKENS)).state_bytes == found["measured"]["kv_bytes"]
