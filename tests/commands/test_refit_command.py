"""What `layersmith refit` prints at its end: words that are true for the model, and lines that really load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from layersmith import catalogue, checkpoint
from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import apply
from layersmith.anatomy.swap import replacement_for
from layersmith.commands.refit import _print, _qualities, how_to_load

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama() -> Any:
    torch.manual_seed(0)
    config = tf.LlamaConfig(vocab_size=64, max_position_embeddings=64, num_key_value_heads=2, **SIZES)
    return tf.LlamaForCausalLM(config).eval()


def bert() -> Any:
    torch.manual_seed(0)
    return tf.BertModel(tf.BertConfig(vocab_size=64, max_position_embeddings=64, **SIZES)).eval()


def told(model: Any, export: str) -> dict[str, Any]:
    perplexity = 8.0 if model.config.model_type == "llama" else None
    figures = {"latency_ms": 4.0, "params": 10, "bytes": 40, "flops": 9, "kv_bytes": 0, "perplexity": perplexity}
    kind = "kl" if perplexity else "relative_squared_error"
    refitted = figures | {"latency_ratio": 0.7, "kl": 0.01, "divergence_kind": kind, "agreement": 0.9}
    return {
        "model": {"name": "out/old/model", "architecture": type(model).__name__},
        "settings": {"budget": {"latency": 0.75}, "at": "prefill=1x8"},
        "baseline": figures,
        "chosen": {"measured": refitted, "meets_budget": True},
        "export": export,
        "reload_max_abs_diff": 0.0,
    }


@pytest.mark.parametrize("make", [llama, bert])
@pytest.mark.parametrize("export", ["stock", "layersmith"])
def test_the_printed_lines_load_the_model_that_was_saved(make: Any, export: str, tmp_path: Path) -> None:
    model = make()
    if export == "stock":
        model.save_pretrained(tmp_path / "model")
    else:
        (site,) = find_sites(model).select("layers.1.ffn")
        part = catalogue.build({"name": "mlp", "d_model": 32, "d_hidden": 16})
        replacement = replacement_for(model, site, part)
        apply(model, replacement)
        checkpoint.save(model.eval(), [edit for edit, _ in replacement], tmp_path / "model")
    lines = how_to_load(told(make(), export), tmp_path)
    assert ("trust_remote_code" in lines) == (export == "layersmith")
    found: dict[str, Any] = {}
    exec(lines, found)  # noqa: S102  (what the user is told to paste)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected, loaded = model(input_ids=ids)[0], found["model"].eval()(input_ids=ids)[0]
    assert torch.equal(expected, loaded)


def test_only_causal_models_agree_on_next_tokens() -> None:
    causal = {label for label, _, _ in _qualities({"perplexity": 8.0, "divergence_kind": "kl"})}
    assert {"same next token", "divergence, nats per token"} <= causal
    masked = {label for label, _, _ in _qualities({"perplexity": None, "divergence_kind": "kl"})}
    assert {"same prediction", "divergence, nats per token"} <= masked
    encoder = {label for label, _, _ in _qualities({"perplexity": None, "divergence_kind": "relative_squared_error"})}
    assert "divergence, relative squared error" in encoder


def test_the_model_is_named_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/old/model").mkdir(parents=True)
    _print(told(llama(), "stock"), Path("out/new"))
    printed = capsys.readouterr().out
    assert printed.startswith("old/model at prefill=1x8")
    assert "model = LlamaForCausalLM.from_pretrained('out/new/model')" in printed
