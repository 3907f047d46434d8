import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from layersmith.measuring.cost import count_params, model_cost, module_flops
from layersmith.measuring.latency import model_inputs
from layersmith.measuring.shape import Shape

LAYERS, D, HIDDEN, HEADS, KV_HEADS, HEAD, VOCABULARY = 2, 32, 48, 4, 2, 8, 64


def _flops_by_hand(batch: int, tokens: int, cached: int = 0) -> int:
    """2 per multiply-add: four projections, scores and weighted values over all pairs, three GLU maps, the head."""
    rows = batch * tokens
    projections = 2 * rows * D * (HEADS + 2 * KV_HEADS + HEADS) * HEAD
    attention = 2 * 2 * batch * HEADS * tokens * (tokens + cached) * HEAD
    ffn = 3 * 2 * rows * D * HIDDEN
    return LAYERS * (projections + attention + ffn) + 2 * rows * D * VOCABULARY


def test_flops_of_a_llama_equal_the_formula(tiny: nn.Module) -> None:
    assert model_cost(tiny, Shape("prefill", 2, 16))["flops"] == _flops_by_hand(2, 16)
    assert model_cost(tiny, Shape("decode", 2, 16))["flops"] == _flops_by_hand(2, 1, cached=16)


def test_flops_by_module_path(tiny: nn.Module) -> None:
    by_path = module_flops(tiny, model_inputs(tiny, Shape("prefill", 1, 16)))
    assert by_path["model.layers.1.mlp"] == 3 * 2 * 16 * D * HIDDEN
    assert by_path[""] == _flops_by_hand(1, 16)


def test_a_skipped_part_costs_nothing(tiny: nn.Module) -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    smaller = copy.deepcopy(tiny)
    smaller.model.layers[0].mlp = Nothing()
    shape = Shape("prefill", 1, 16)
    before, after = model_cost(tiny, shape), model_cost(smaller, shape)
    assert before["flops"] - after["flops"] == 3 * 2 * 16 * D * HIDDEN
    assert before["params"] - after["params"] == 3 * D * HIDDEN
    assert before["bytes"] - after["bytes"] == 4 * 3 * D * HIDDEN


def test_tied_weights_count_once(tiny: nn.Module) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=4, tie_word_embeddings=False)
    untied = LlamaForCausalLM(config).eval()
    config.tie_word_embeddings = True
    tied = LlamaForCausalLM(config).eval()
    shape = Shape("prefill", 1, 4)
    difference = {k: model_cost(untied, shape)[k] - model_cost(tied, shape)[k] for k in ("params", "bytes", "flops")}
    assert difference == {"params": 64 * 32, "bytes": 64 * 32 * 4, "flops": 0}


def test_kv_bytes_are_those_of_the_cache_after_the_tokens(tiny: nn.Module) -> None:
    expected = LAYERS * 2 * KV_HEADS * HEAD * 4  # per token and sequence: keys and values in fp32
    assert model_cost(tiny, Shape("prefill", 2, 16))["kv_bytes"] == 2 * 16 * expected
    assert model_cost(tiny, Shape("decode", 2, 16))["kv_bytes"] == 2 * 16 * expected


def test_an_encoder_keeps_no_cache(encoder: nn.Module) -> None:
    assert model_cost(encoder, Shape("prefill", 1, 8))["kv_bytes"] == 0


def test_the_fused_path_of_a_torch_encoder_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(d_model=32, nhead=4, dim_feedforward=48, batch_first=True)
    model = nn.TransformerEncoder(layer, num_layers=2).eval()
    per_layer = 2 * 8 * 32 * 4 * 32 + 2 * 2 * 8 * 8 * 32 + 2 * 2 * 8 * 32 * 48
    assert model_cost(model, Shape("prefill", 1, 8))["flops"] == 2 * per_layer
    assert torch.backends.mha.get_fastpath_enabled()


def test_packed_weights_count_as_what_they_encode() -> None:
    from layersmith.contract import Cost, Linear

    class Packed(Linear):
        def __init__(self, d_in: int, d_out: int):
            super().__init__()
            self.register_buffer("packed", torch.zeros(d_in * d_out // 2, dtype=torch.uint8))
            self.bias = nn.Parameter(torch.zeros(d_out))
            self.params = d_in * d_out + d_out

        def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
            return Cost(params=self.params, active_params=self.params, flops=0)

    model = nn.Sequential(nn.Linear(8, 4), Packed(4, 6))
    assert count_params([model]) == (8 * 4 + 4) + (4 * 6 + 6)


@pytest.mark.parametrize("shape", [Shape("prefill", 1, 8), Shape("decode", 1, 8)])
def test_cost_of_an_encoder_decoder(encoder_decoder: nn.Module, shape: Shape) -> None:
    cost = model_cost(encoder_decoder, shape)
    # Two decoder layers keep their own 8 tokens and the encoder's 8, keys and values, 4 heads of 8, in fp32.
    assert cost["kv_bytes"] == 2 * 2 * (8 + 8) * 4 * 8 * 4
    assert cost["flops"] > 0
