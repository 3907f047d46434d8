"""The model card tells what the result file holds, in Markdown that the Hub reads."""

from __future__ import annotations

import yaml

from layersmith.report.card import card
from tests.report.results import make_result


def header(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def test_every_figure_comes_from_the_result_with_its_conditions() -> None:
    result = make_result()
    result["chosen"]["measured"] |= {"latency_ratio": 0.7123, "divergence": 0.0213, "agreement": 0.9431}
    text = card(result)
    row = next(line for line in text.splitlines() if line.startswith("| latency |"))
    assert row.endswith("| 0.71× |")
    assert "0.021" in next(line for line in text.splitlines() if line.startswith("| KL"))
    assert "94.3 %" in text
    for told in ("Example CPU at 2.60 GHz", "avx512f", "2 threads", "prefill=1x512", "torch 2.13.0", "32,768 held-out"):
        assert told in text, told
    assert "which was met" in text


def test_a_missed_budget_is_said() -> None:
    text = card(make_result(met=False))
    assert "**missed**" in text
    assert "which was met" not in text


def test_the_header_names_a_base_of_the_hub_only() -> None:
    result = make_result()
    assert header(card(result)) == {"library_name": "transformers", "tags": ["layersmith"]}
    result["model"]["name"] = "HuggingFaceTB/SmolLM2-135M"
    assert header(card(result))["base_model"] == "HuggingFaceTB/SmolLM2-135M"
    result["model"]["name"] = "/home/me/models/a b: [x](y)"
    text = card(result)
    assert "base_model" not in header(text)
    assert "[x](y)" not in text


def test_it_says_how_to_load_either_kind() -> None:
    result = make_result()
    assert "trust_remote_code=True" in card(result)
    result["export"] = "stock"
    text = card(result)
    assert "trust_remote_code" not in text
    assert "from transformers import LlamaForCausalLM" in text


def test_parts_that_no_adapter_reaches_are_named() -> None:
    result = make_result()
    assert "all-linear" not in card(result)
    chosen = result["chosen"]["candidates"][0]
    entry = next(each for each in result["candidates"] if each["id"] == chosen)
    entry["method"] = "int8_dynamic"
    text = card(result)
    assert "`all-linear` leaves out" in text
    assert "`int8_dynamic`" in text


def test_an_encoder_has_no_perplexity_and_compiled_figures_stand_apart() -> None:
    result = make_result(encoder=True)
    result["compiled"] = {
        "original": {"latency_ms": 20.0, "latency_ratio": 1.0},
        "refitted": {"latency_ms": 15.0, "latency_ratio": 0.76},
    }
    text = card(result)
    assert "perplexity" not in text
    assert "| latency, both under torch.compile | 20.0 ms | 15.0 ms | 0.76× |" in text
    assert "import AutoModel\n" in text
