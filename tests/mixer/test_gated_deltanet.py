"""Gated DeltaNet against float64 loops, the limits of its recurrence, and Qwen3-Next's layer in transformers."""

import math

import pytest
import torch
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next
from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig

from layersmith.mixer.deltanet import DeltaNet
from layersmith.mixer.gated_deltanet import GatedDeltaNet
from layersmith.mixer.shared.delta_rule import delta_rule_chunked, delta_rule_recurrent
from layersmith.mixer.softmax import SoftmaxAttention


def convolved(x, kernels):
    """Causal depthwise convolution and SiLU of x (T, C), one number at a time."""
    out = torch.zeros_like(x)
    for t in range(len(x)):
        for c, kernel in enumerate(kernels.tolist()):
            total = sum(kernel[-1 - j] * float(x[t - j, c]) for j in range(len(kernel)) if j <= t)
            out[t, c] = total / (1 + math.exp(-total))
    return out


def by_loops(m: GatedDeltaNet, x: torch.Tensor) -> torch.Tensor:
    """The whole layer for one sequence x (T, D), one token and head at a time."""
    d, group = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads
    joined = torch.cat((m.q(x), m.k(x), m.v(x)), -1)
    if m.conv is not None:
        joined = convolved(joined, m.conv.weight[:, 0])
    queries, keys, values = joined.split([m.q.out_features, m.k.out_features, m.v.out_features], -1)
    out = torch.zeros_like(queries)
    for h in range(m.n_kv_heads):
        shared = slice(h * d, (h + 1) * d)
        s = torch.zeros(d, d, dtype=x.dtype)
        for t in range(len(x)):
            k = keys[t, shared] / math.sqrt(float(keys[t, shared] @ keys[t, shared]) + 1e-6)
            beta = 1 / (1 + math.exp(-float(m.beta.weight[h] @ x[t])))
            pre = float(m.decay.weight[h] @ x[t] + m.decay.bias[h])
            s = math.exp(-math.exp(float(m.log_rate[h])) * math.log1p(math.exp(pre))) * s
            s = s + torch.outer(k, beta * (values[t, shared] - k @ s))
            for g in range(h * group, (h + 1) * group):
                own = slice(g * d, (g + 1) * d)
                q = queries[t, own] / math.sqrt(float(queries[t, own] @ queries[t, own]) + 1e-6)
                read = q @ s / math.sqrt(d)
                out[t, own] = m.norm.weight * read / math.sqrt(float(read @ read) / d + m.norm.eps)
    if m.gate is not None:
        z = m.gate(x)
        out = out * z / (1 + (-z).exp())
    return m.o(out)


@pytest.mark.oracle("gated_deltanet")
@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"n_kv_heads": 2}, {"conv": None, "n_kv_heads": 1, "out_gate": False}])
def test_equals_loops(settings):
    torch.manual_seed(0)
    m = GatedDeltaNet(12, 4, head_dim=3, chunk=4, **settings).double()
    m.norm.weight.normal_()
    x = torch.randn(2, 10, 12, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


def random_inputs(tokens, strength=1.0, dtype=torch.float64):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, tokens, 6, dtype=dtype)
    beta = torch.rand(2, 3, tokens, 1, dtype=dtype)
    log_decay = -strength * torch.rand(2, 3, tokens, 1, dtype=dtype)
    k = torch.nn.functional.normalize(k, dim=-1)
    return q, k, v, beta, torch.randn(2, 3, 6, 6, dtype=dtype), log_decay


def chunked(q, k, v, beta, state, log_decay, size=64):
    return delta_rule_chunked(q, k, v, beta, state, size, log_decay=log_decay)


def close(ours, want, bound):
    for a, b in zip(ours, want, strict=True):
        torch.testing.assert_close(a, b, atol=bound, rtol=0)


@pytest.mark.oracle("gated_deltanet")
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 300])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_chunked_equals_recurrent(tokens, dtype, bound):
    for strength in (0.1, 20.0):
        parts = random_inputs(tokens, strength, dtype)
        parts[5][:, :, tokens // 2] = -torch.inf  # forgets everything, and nothing after it may suffer
        close(chunked(*parts), delta_rule_recurrent(*parts), bound)


def test_gradients_of_both_forms_are_equal():
    parts = [part.requires_grad_() for part in random_inputs(23, 2.0)]
    grads = []
    for y, state in (chunked(*parts, size=8), delta_rule_recurrent(*parts)):
        grads.append(torch.autograd.grad(y.square().sum() + state.sum(), parts))
    close(*grads, 1e-9)


@pytest.mark.oracle("gated_deltanet")
def test_without_decay_it_is_the_delta_rule():
    q, k, v, beta, state, log_decay = random_inputs(23)
    want = delta_rule_recurrent(q, k, v, beta, state)
    close(chunked(q, k, v, beta, state, 0 * log_decay, size=8), want, 1e-12)


@pytest.mark.oracle("gated_deltanet")
def test_beta_zero_only_forgets():
    q, k, v, beta, state, log_decay = random_inputs(9)
    for y, after in (
        chunked(q, k, v, 0 * beta, state, log_decay, size=4),
        delta_rule_recurrent(q, k, v, 0 * beta, state, log_decay),
    ):
        torch.testing.assert_close(after, log_decay.sum(-2, keepdim=True).exp() * state, atol=1e-14, rtol=0)
        torch.testing.assert_close(y, log_decay.cumsum(-2).exp() * (q @ state), atol=1e-14, rtol=0)


@torch.no_grad()
def test_a_gate_held_open_is_deltanet():
    torch.manual_seed(0)
    gated, plain = GatedDeltaNet(16, 2, out_gate=False, eps=1e-5), DeltaNet(16, 2)
    gated.load_state_dict(plain.state_dict(), strict=False)
    gated.log_rate.fill_(-60.0)
    x = torch.randn(2, 70, 16)
    torch.testing.assert_close(gated(x)[0], plain(x)[0], atol=1e-5, rtol=0)


def qwen_layer(d_model, heads, d):
    config = Qwen3NextConfig(
        hidden_size=d_model, linear_num_value_heads=heads, linear_num_key_heads=heads, linear_key_head_dim=d,
        linear_value_head_dim=d, linear_conv_kernel_dim=4, num_hidden_layers=1, layer_types=["linear_attention"],
    )  # fmt: skip
    return qwen3_next.Qwen3NextGatedDeltaNet(config, 0).eval()


@pytest.mark.official("gated_deltanet")
@torch.no_grad()
def test_equals_qwen3_next():
    """The whole layer of transformers, weights copied: its q, k, v and gate lie head by head in one matrix."""
    torch.manual_seed(0)
    heads, d = 3, 8
    theirs, m = qwen_layer(16, heads, d), GatedDeltaNet(16, heads, head_dim=d)
    rows = theirs.in_proj_qkvz.weight.unflatten(0, (heads, 4, d))
    for i, ours in enumerate((m.q, m.k, m.v, m.gate)):
        ours.weight.copy_(rows[:, i].flatten(0, 1))
    both = theirs.in_proj_ba.weight.unflatten(0, (heads, 2))
    m.beta.weight.copy_(both[:, 0])
    m.decay.weight.copy_(both[:, 1])
    m.decay.bias.copy_(theirs.dt_bias.normal_())
    m.log_rate.copy_(theirs.A_log.uniform_(-2, 1))
    m.conv.weight.copy_(theirs.conv1d.weight)
    m.norm.weight.copy_(theirs.norm.weight.normal_())
    m.o.weight.copy_(theirs.out_proj.weight)
    x = torch.randn(2, 70, 16)
    torch.testing.assert_close(m(x)[0], theirs(x), atol=1e-5, rtol=0)


@pytest.mark.official("gated_deltanet")
@pytest.mark.parametrize("theirs", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_the_rule_equals_qwen3_next_from_any_state(theirs):
    q, k, v, beta, state, log_decay = random_inputs(70, dtype=torch.float32)
    want, want_state = getattr(qwen3_next, theirs)(
        *(part.transpose(1, 2) for part in (q, k, v)), g=log_decay[..., 0].mT, beta=beta[..., 0].mT,
        initial_state=state, output_final_state=True,
    )  # fmt: skip
    close(chunked(q / math.sqrt(6), k, v, beta, state, log_decay), (want.transpose(1, 2), want_state), 1e-5)


def test_softmax_weights_can_be_copied_in():
    softmax = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0, qk_norm=True, bias=True)
    m = GatedDeltaNet(
        16, 4, n_kv_heads=2, rope_theta=100.0, qk_norm=True, bias=True, conv=None, out_gate=False
    )  # fmt: skip
    result = m.load_state_dict(softmax.state_dict(), strict=False)
    assert set(result.missing_keys) == {"log_rate", "beta.weight", "decay.weight", "decay.bias", "norm.weight"}
    assert result.unexpected_keys == []


@torch.no_grad()
@pytest.mark.parametrize("conv", [None, 3])
def test_rope_turns_keys_and_queries(conv):
    torch.manual_seed(0)
    m = GatedDeltaNet(16, 2, conv=conv, rope_theta=10.0).double()
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    plain = GatedDeltaNet(16, 2, conv=conv).double()
    plain.load_state_dict(m.state_dict())
    assert (m(x)[0] - plain(x)[0]).abs().max() > 1e-3


def test_memory_does_not_grow_and_grouped_heads_share_it():
    m = GatedDeltaNet(16, 4, n_kv_heads=2)
    assert m.state_bytes(24) == m.state_bytes(1000) == 4 * (2 * 4 * 4 + (16 + 8 + 8) * 3)


def test_starts_by_forgetting_little():
    torch.manual_seed(0)
    step = torch.nn.functional.softplus(GatedDeltaNet(64, 64).decay.bias)
    assert step.min() >= 1e-3
    assert step.max() <= 1e-1


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="conv must be a positive integer"):
        GatedDeltaNet(16, 2, conv=0)
    with pytest.raises(ValueError, match="chunk must be a positive integer"):
        GatedDeltaNet(16, 2, chunk=0)
