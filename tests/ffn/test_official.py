"""MLP and GLU side by side with the feed-forwards of transformers' models."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GemmaConfig, GPT2Config, GPTNeoXConfig, LlamaConfig
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP
from transformers.models.llama.modeling_llama import LlamaMLP

from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP

D, HIDDEN = 64, 40  # a width that the default number of heads of each config divides


def copy(target: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    with torch.no_grad():
        target.weight.copy_(weight)
        if bias is not None:
            target.bias.copy_(bias)


@pytest.mark.official("glu")
@pytest.mark.parametrize(
    ("theirs", "config", "act", "bias"),
    [
        (LlamaMLP, LlamaConfig(hidden_size=D, intermediate_size=HIDDEN), "silu", False),
        (LlamaMLP, LlamaConfig(hidden_size=D, intermediate_size=HIDDEN, mlp_bias=True), "silu", True),
        (GemmaMLP, GemmaConfig(hidden_size=D, intermediate_size=HIDDEN), "gelu_tanh", False),
    ],
    ids=["llama", "llama-bias", "gemma"],
)
def test_glu_equals_transformers_own(theirs, config, act, bias) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    other, ours = theirs(config).double(), GLU(D, HIDDEN, act=act, bias=bias).double()
    for mine, their in ((ours.gate, other.gate_proj), (ours.up, other.up_proj), (ours.down, other.down_proj)):
        copy(mine, their.weight, their.bias)
    x = torch.randn(2, 5, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x), other(x), rtol=1e-12, atol=1e-14)


@pytest.mark.official("mlp")
def test_mlp_equals_gpt2s() -> None:
    torch.manual_seed(0)
    other = GPT2MLP(HIDDEN, GPT2Config(n_embd=D)).double().eval()
    ours = MLP(D, HIDDEN, act="gelu_tanh", bias=True).double()
    for part in (other.c_fc, other.c_proj):
        nn.init.normal_(part.bias)  # GPT-2 starts them at zero, where a lost bias would not show
    copy(ours.up, other.c_fc.weight.mT, other.c_fc.bias)
    copy(ours.down, other.c_proj.weight.mT, other.c_proj.bias)
    x = torch.randn(2, 5, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x), other(x), rtol=1e-12, atol=1e-14)


@pytest.mark.official("mlp")
def test_mlp_equals_gpt_neoxs() -> None:
    torch.manual_seed(0)
    other = GPTNeoXMLP(GPTNeoXConfig(hidden_size=D, intermediate_size=HIDDEN)).double()
    ours = MLP(D, HIDDEN, act="gelu", bias=True).double()
    copy(ours.up, other.dense_h_to_4h.weight, other.dense_h_to_4h.bias)
    copy(ours.down, other.dense_4h_to_h.weight, other.dense_4h_to_h.bias)
    x = torch.randn(2, 5, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x), other(x), rtol=1e-12, atol=1e-14)
