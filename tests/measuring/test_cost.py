import copy

import pytest
import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from layersmith.anatomy import find_sites
from layersmith.measuring.cost import count_params, model_cost, module_flops, read
from layersmith.measuring.flops import count_flops
from layersmith.measuring.latency import model_inputs
from layersmith.measuring.shape import Shape
from layersmith.measuring.sites import site_costs

LAYERS, D, HIDDEN, HEADS, KV_HEADS, HEAD, VOCABULARY = 2, 32, 48, 4, 2, 8, 64


def _flops_by_hand(batch: int, tokens: int, cached: int = 0) -> int:
    """2 per multiply-add: four projections, scores and weighted values over all pairs, three GLU maps, the head."""
    rows = batch * tokens
    projections = 2 * rows * D * (HEADS + 2 * KV_HEADS + HEADS) * HEAD
    attention = 2 * 2 * batch * HEADS * tokens * (tokens + cached) * HEAD
    ffn = 3 * 2 * rows * D * HIDDEN
    return LAYERS * (projections + attention + ffn) + 2 * rows * D * VOCABULARY


def test_flops_of_a_llama_equal_the_formula(tiny: nn.Module) -> None:
    assert model_cost(tiny, Shape("prefill", 2, 16)).flops == _flops_by_hand(2, 16)
    assert model_cost(tiny, Shape("decode", 2, 16)).flops == _flops_by_hand(2, 1, cached=16)


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
    assert before.flops - after.flops == 3 * 2 * 16 * D * HIDDEN
    assert before.params - after.params == 3 * D * HIDDEN
    assert before.weight_bytes - after.weight_bytes == 4 * 3 * D * HIDDEN


def test_tied_weights_count_once(tiny: nn.Module) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=4, tie_word_embeddings=False)
    untied = LlamaForCausalLM(config).eval()
    config.tie_word_embeddings = True
    tied = LlamaForCausalLM(config).eval()
    shape = Shape("prefill", 1, 4)
    difference = model_cost(untied, shape) - model_cost(tied, shape)
    assert (difference.params, difference.weight_bytes, difference.flops) == (64 * 32, 64 * 32 * 4, 0)


def test_kv_bytes_are_those_of_the_cache_after_the_tokens(tiny: nn.Module) -> None:
    expected = LAYERS * 2 * KV_HEADS * HEAD * 4  # per token and sequence: keys and values in fp32
    assert model_cost(tiny, Shape("prefill", 2, 16)).state_bytes == 2 * 16 * expected
    assert model_cost(tiny, Shape("decode", 2, 16)).state_bytes == 2 * 16 * expected


def test_an_encoder_keeps_no_cache(encoder: nn.Module) -> None:
    assert model_cost(encoder, Shape("prefill", 1, 8)).state_bytes == 0


def test_the_fused_path_of_a_torch_encoder_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(d_model=32, nhead=4, dim_feedforward=48, batch_first=True)
    model = nn.TransformerEncoder(layer, num_layers=2).eval()
    per_layer = 2 * 8 * 32 * 4 * 32 + 2 * 2 * 8 * 8 * 32 + 2 * 2 * 8 * 32 * 48
    assert model_cost(model, Shape("prefill", 1, 8)).flops == 2 * per_layer
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
    assert count_params(model) == (8 * 4 + 4) + (4 * 6 + 6)


@pytest.mark.parametrize("shape", [Shape("prefill", 1, 8), Shape("decode", 1, 8)])
def test_cost_of_an_encoder_decoder(encoder_decoder: nn.Module, shape: Shape) -> None:
    cost = model_cost(encoder_decoder, shape)
    # Two decoder layers keep their own 8 tokens and the encoder's 8, keys and values, 4 heads of 8, in fp32.
    assert cost.state_bytes == 2 * 2 * (8 + 8) * 4 * 8 * 4
    assert cost.flops > 0


SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "pad_token_id": 0}


@pytest.mark.parametrize("how", ["eager", "batched_mm", "grouped_mm"])
def test_experts_count_as_those_that_work(how: str) -> None:
    """8 experts of which each token takes 2: a quarter of what all of them would do, in every way to compute them."""
    config = MixtralConfig(
        **SMALL, num_hidden_layers=1, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2
    )
    model = MixtralForCausalLM(config).eval()
    model.set_experts_implementation(how)
    tokens, dense = 12, 8 * 3 * 2 * 12 * 32 * 48
    router = 2 * tokens * 32 * 8
    by_path = module_flops(model, model_inputs(model, Shape("prefill", 1, tokens)))
    assert by_path["model.layers.0.mlp"] - router == dense * 2 // 8
    anatomy = find_sites(model)
    block = next(row for row in site_costs(model, anatomy, Shape("prefill", 1, tokens), rounds=1) if row["calls"])
    assert block["flops"] >= dense * 2 // 8


def test_products_that_torch_counts_as_nothing() -> None:
    a = torch.ones(32, 16, dtype=torch.int8)
    assert count_flops(lambda: torch._int_mm(a, a.T.contiguous())) == 2 * 32 * 16 * 32
    assert count_flops(lambda: torch.ones(5, 7) @ torch.ones(7)) == 2 * 5 * 7
    assert count_flops(lambda: torch.ones(7) @ torch.ones(7)) == 2 * 7
    assert count_flops(lambda: torch.addmv(torch.ones(5), torch.ones(5, 7), torch.ones(7))) == 2 * 5 * 7


def test_each_site_is_credited_with_the_cache_it_really_fills() -> None:
    """A window of 8 keeps 7 tokens to go on with, whole attention keeps all 24; the bytes are those of the dtype."""
    config = Gemma3TextConfig(
        **SMALL,
        num_hidden_layers=2,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )
    for dtype in (torch.float32, torch.bfloat16):
        model = Gemma3ForCausalLM(config).eval().to(dtype)
        paths = [f"model.layers.{i}.self_attn" for i in range(2)]
        prompt = read(model, Shape("prefill", 1, 24), [*paths, "model.layers.0.mlp"])
        per_token = 2 * 2 * 8 * dtype.itemsize
        assert [prompt.made[path] for path in paths] == [7 * per_token, 24 * per_token]
        assert prompt.made["model.layers.0.mlp"] == 0
        assert prompt.kv_bytes == sum(prompt.made.values())
        assert model_cost(model, Shape("decode", 1, 24)).state_bytes == prompt.kv_bytes


def test_cross_attention_is_credited_with_its_own_cache(encoder_decoder: nn.Module) -> None:
    paths = [f"decoder.block.0.layer.{i}" for i in range(2)]
    made = read(encoder_decoder, Shape("decode", 1, 8), paths).made
    assert [made[path] for path in paths] == [2 * 8 * 4 * 8 * 4] * 2


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_model_without_keys_and_values_keeps_its_states(phase: str) -> None:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4, time_step_rank=2)
    model = MambaForCausalLM(config).eval()
    prompt = read(model, Shape(phase, 1, 16), ["backbone.layers.0.mixer"])
    state = (config.intermediate_size * config.state_size + config.intermediate_size * config.conv_kernel) * 4
    assert prompt.made["backbone.layers.0.mixer"] == state
    assert model_cost(model, Shape(phase, 1, 16)).state_bytes == 2 * state


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_states_that_modules_keep_count_beside_the_cache(phase: str) -> None:
    """RecurrentGemma fills a cache that it is given and returns none; its recurrences keep their states themselves."""
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(
        **SMALL, num_hidden_layers=3, num_key_value_heads=2, head_dim=8, attention_window_size=6, lru_width=32
    )
    model = RecurrentGemmaForCausalLM(config).eval()
    paths = [f"model.layers.{i}.temporal_block" for i in range(3)]
    for _ in range(2):  # what an earlier prompt left is none of the next one's
        prompt = read(model, Shape(phase, 1, 8), [*paths, "model.layers.0.mlp_block"])
        recurrent = (32 + 32 * (config.conv1d_width - 1)) * 4  # the hidden state, and the tokens of its convolution
        window = 2 * 2 * 5 * 8 * 4  # keys and values, heads, the window but for the token to come, width
        assert [prompt.made[path] for path in paths] == [recurrent, recurrent, window]
        assert prompt.made["model.layers.0.mlp_block"] == 0
        assert prompt.kv_bytes == 2 * recurrent + window
        assert prompt.kv_bytes == model_cost(model, Shape(phase, 1, 8)).state_bytes


def test_a_counter_of_tokens_is_no_cache() -> None:
    from layersmith.measuring.cache import cache_bytes

    assert cache_bytes({"keys": torch.zeros(2, 3), "length": torch.tensor(7)}) == 24
