"""MLP and GLU side by side with the feed-forwards of transformers' models."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GemmaConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, NemotronConfig, T5Config
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.nemotron.modeling_nemotron import NemotronMLP
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

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


@pytest.mark.official("mlp")
@pytest.mark.parametrize(("theirs", "act"), [("relu", "relu"), ("gelu", "gelu"), ("silu", "silu")])
def test_mlp_equals_t5s(theirs, act) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    other = T5DenseActDense(T5Config(d_model=D, d_ff=HIDDEN, feed_forward_proj=theirs)).double().eval()
    ours = MLP(D, HIDDEN, act=act, bias=False).double()
    copy(ours.up, other.wi.weight, None)
    copy(ours.down, other.wo.weight, None)
    x = torch.randn(2, 5, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x), other(x), rtol=1e-12, atol=1e-14)


@pytest.mark.official("mlp")
def test_squared_relu_equals_nemotrons() -> None:
    torch.manual_seed(0)
    other = NemotronMLP(NemotronConfig(hidden_size=D, intermediate_size=HIDDEN, mlp_bias=False)).double()
    ours = MLP(D, HIDDEN, act="relu2", bias=False).double()
    copy(ours.up, other.up_proj.weight, None)
    copy(ours.down, other.down_proj.weight, None)
    x = torch.randn(2, 5, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x), other(x), rtol=1e-12, atol=1e-14)


@pytest.mark.official("glu")
@pytest.mark.parametrize(("theirs", "act"), [("gelu", "gelu_tanh"), ("relu", "relu"), ("silu", "silu")])
def test_geglu_reglu_and_swiglu_equal_t5s(theirs, act) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    # T5 reads "gated-gelu" as the tanh form of GELU.
    other = T5DenseGatedActDense(T5Config(d_model=D, d_ff=HIDDEN, feed_forward_proj=f"gated-{theirs}")).double().eval()
    ours = GLU(D, HIDDEN, act=act).double()
    for mine, their in ((ours.gate, other.wi_0), (ours.up, other.wi_1), (ours.down, other.wo)):
        copy(mine, their.weight, None)
    x = torch.randn(2, 5, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x), other(x), rtol=1e-12, atol=1e-14)


@pytest.mark.official("glu")
def test_the_sigmoid_gate_equals_torchs_glu() -> None:
    torch.manual_seed(0)
    ours = GLU(D, HIDDEN, act="sigmoid").double()
    x = torch.randn(2, 5, D, dtype=torch.float64)
    halves = torch.cat([ours.up(x), ours.gate(x)], dim=-1)
    torch.testing.assert_close(ours(x), ours.down(nn.functional.glu(halves)), rtol=1e-12, atol=1e-14)
