"""Measuring real pretrained models: figures that are known from their architecture, and no difference from oneself."""

from pathlib import Path

import pytest
import torch

from layersmith.anatomy import find_sites
from layersmith.checkpoint import load
from layersmith.measuring.compare import measure
from layersmith.measuring.cost import model_cost
from layersmith.measuring.latency import model_inputs, model_step
from layersmith.measuring.shape import Shape
from layersmith.measuring.sites import site_costs
from layersmith.measuring.token_bytes import token_bytes

pytestmark = pytest.mark.real


def test_smollm2_costs_what_its_architecture_says(smollm2_path: Path) -> None:
    model, tokenizer = load(smollm2_path)
    layers, d, hidden, heads, kv_heads, head, vocabulary = 30, 576, 1536, 9, 3, 64, 49152
    cost = model_cost(model, Shape("prefill", 1, 64))
    matrices = layers * (d * (2 * heads + 2 * kv_heads) * head + 3 * d * hidden)
    assert cost.params == matrices + vocabulary * d + (2 * layers + 1) * d  # tied embedding, norms
    attention = layers * 2 * 2 * heads * 64 * 64 * head
    assert cost.flops == 2 * 64 * (matrices + vocabulary * d) + attention
    assert cost.state_bytes == layers * 2 * kv_heads * head * 64 * 4

    inputs = model_inputs(model, Shape("decode", 1, 64))
    step = model_step(model, Shape("decode", 1, 64))
    with torch.no_grad():
        prompt = model_inputs(model, Shape("prefill", 1, 64))["input_ids"]
        whole = model(torch.cat([prompt, inputs["input_ids"]], dim=1)).logits[:, -1]
        step()
        torch.testing.assert_close(step().logits[:, -1], whole, rtol=0, atol=1e-3)

    text = "Ünïcode, numbers 12345 and\n\tcode: print('hello')\n"
    sizes = token_bytes(tokenizer)
    assert int(sizes[tokenizer(text, add_special_tokens=False)["input_ids"]].sum()) == len(text.encode())


def test_minilm_is_at_no_distance_from_itself(minilm_path: Path) -> None:
    model, tokenizer = load(minilm_path)
    found = measure(model, model, tokenizer=tokenizer, at="prefill=1x64", windows=4, length=64, rounds=3)
    assert found["comparison"]["divergence"] == 0.0
    assert found["comparison"]["divergence_kind"] == "relative_squared_error"
    assert found["model"]["bits_per_byte"] is None
    assert 4 * 64 <= found["settings"]["tokens"] < 2 * 4 * 64, "real tokens of whole paragraphs, as many as asked for"


def test_the_shared_block_of_albert_is_counted_as_often_as_it_runs(albert_path: Path) -> None:
    model, _ = load(albert_path)
    anatomy = find_sites(model)
    (block,) = anatomy.of_kind("block")
    rows = {row["name"]: row for row in site_costs(model, anatomy, Shape("prefill", 1, 64), rounds=3)}
    assert rows[block.name]["calls"] == model.config.num_hidden_layers
    assert 0.8 < rows[block.name]["flops_share"] <= 1.0
    inside = sum(rows[site.name]["flops"] for site in anatomy.in_block(block.name))
    assert inside == rows[block.name]["flops"]
