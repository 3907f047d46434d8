import copy
import json
from pathlib import Path

import pytest
from torch import nn
from transformers import PreTrainedTokenizerFast

import layersmith
from layersmith.errors import UserError
from layersmith.measuring.compare import measure


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"paragraph {i}: " + "some words; " * (i % 7 + 20) for i in range(300)))
    return str(path)


def test_a_changed_model_beside_its_original(tiny: nn.Module, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    changed = copy.deepcopy(tiny)
    changed.model.layers[1].mlp.down_proj.weight.data.zero_()
    shapes = ["prefill=1x32", "decode=1x16"]
    found = measure(changed, tiny, tokenizer=tokenizer, data=text, at=shapes, windows=3, length=64, rounds=2)
    found = json.loads(json.dumps(found.to_json()))

    assert found["settings"] == {
        "at": shapes,
        "data": text,
        "tokens": 3 * 64,
        "length": 64,
        "rounds": 2,
        "seed": 0,
    }
    assert found["environment"]["device"] == "cpu"
    assert found["model"]["params"] == found["against"]["params"]
    assert set(found["model"]["at"]) == set(shapes)
    assert found["model"]["at"]["decode=1x16"]["latency_ms"] > 0
    assert found["model"]["at"]["prefill=1x32"]["kv_bytes"] == 2 * found["model"]["at"]["decode=1x16"]["kv_bytes"]
    assert found["model"]["perplexity"] != found["against"]["perplexity"]
    assert found["model"]["bits_per_byte"] > 0
    assert len(found["model"]["samples"]) == 3
    comparison = found["comparison"]
    assert comparison["divergence"] > 0
    assert comparison["divergence_kind"] == "kl"
    assert 0 <= comparison["greedy_agreement"] <= 1
    assert set(comparison["latency_ratio"]) == set(shapes)


def test_a_model_beside_its_copy_shows_no_difference(
    tiny: nn.Module, tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    found = measure(copy.deepcopy(tiny), tiny, tokenizer=tokenizer, data=text, at="prefill=1x16", windows=2, rounds=1)
    assert found["comparison"]["divergence"] == 0.0
    assert found["comparison"]["agreement"] == 1.0
    assert found["comparison"]["greedy_agreement"] == 1.0


def test_one_model_alone(tiny: nn.Module, tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"context": "a", "choices": ["b", "c"], "answer": 0}')
    settings = {"data": text, "at": "prefill=1x16", "windows": 2, "rounds": 1}
    found = measure(tiny, tokenizer=tokenizer, questions=str(questions), **settings)
    assert found["against"] is None
    assert found["comparison"] is None
    assert found["model"]["zeroshot"]["questions"] == 1


def test_an_encoder_on_padded_text(encoder: nn.Module, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    found = measure(encoder, encoder, tokenizer=tokenizer, data=text, at="prefill=1x16", windows=2, length=64, rounds=1)
    assert found["comparison"]["divergence_kind"] == "relative_squared_error"
    assert found["comparison"]["divergence"] == 0.0
    assert found["model"]["perplexity"] is None
    assert found["model"]["samples"] is None


def test_random_tokens_need_no_tokenizer_and_claim_no_perplexity(tiny: nn.Module, other: nn.Module) -> None:
    found = measure(tiny, other, data="random", at="prefill=1x16", windows=2, rounds=1)
    assert found["settings"]["data"] == "random"
    assert found["comparison"]["divergence"] > 0
    assert found["model"]["perplexity"] is None


def test_a_model_of_vectors_is_measured_on_random_inputs() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2)
    found = measure(model, model, at="prefill=1x16", windows=2, rounds=1)
    assert found["settings"]["data"] == "random"
    assert found["comparison"]["divergence"] == 0.0


def test_text_without_a_tokenizer_is_refused(tiny: nn.Module, text: str) -> None:
    with pytest.raises(UserError, match="without a tokenizer"):
        measure(tiny, data=text)


def test_the_room_is_the_function_too(tiny: nn.Module) -> None:
    found = layersmith.measure(tiny, data="random", at="prefill=1x16", windows=1, rounds=1)
    assert found["schema"] == "layersmith.measure/1"
    assert layersmith.measuring.shape.parse_shape("prefill=1x2").tokens == 2
