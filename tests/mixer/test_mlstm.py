"""mLSTM against float64 loops of its recurrence without a stabiliser, its limits, and the layer of transformers."""

import math

import pytest
import torch
from transformers.models.xlstm import modeling_xlstm
from transformers.models.xlstm.configuration_xlstm import xLSTMConfig

from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.mlstm import MLSTM
from layersmith.mixer.shared.exponential_gates import running_max
from tests.mixer.by_steps import sigmoid


def by_loops(m: MLSTM, x: torch.Tensor) -> torch.Tensor:
    """The whole layer for one sequence x (T, D), exponentials as they stand."""
    d, group = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads
    q, k, v, i, f = m.q(x), m.k(x), m.v(x), m.write(x), m.forget(x)
    i, f = (m.cap * torch.tanh(part / m.cap) for part in (i, f))
    out = torch.zeros_like(q)
    for h in range(m.n_kv_heads):
        memory = [torch.zeros(d, dtype=x.dtype) for _ in range(d)]
        collected = [0.0] * d
        for t in range(len(x)):
            keep, write = sigmoid(float(f[t, h])), math.exp(float(i[t, h]))
            for n in range(d):
                key = float(k[t, h * d + n])
                memory[n] = keep * memory[n] + write * key * v[t, h * d : (h + 1) * d]
                collected[n] = keep * collected[n] + write * key
            for g in range(h * group, (h + 1) * group):
                own = slice(g * d, (g + 1) * d)
                query = (q[t, own] / math.sqrt(d)).tolist()
                seen = sum(a * b for a, b in zip(query, collected, strict=True))
                read = sum(a * row for a, row in zip(query, memory, strict=True)) / max(abs(seen), 1.0)
                centred = read - read.mean()
                out[t, own] = m.weight[own] * centred / math.sqrt(float(centred @ centred) / d + m.eps)
    if m.gate is not None:
        out = out / (1 + (-m.gate(x)).exp())
    return m.o(out)


@torch.no_grad()
def part(**settings) -> MLSTM:
    torch.manual_seed(0)
    m = MLSTM(12, 4, head_dim=3, chunk=8, **settings).double()
    for parameter in m.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
    return m


@pytest.mark.oracle("mlstm")
@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"n_kv_heads": 2, "cap": 2.0}, {"out_gate": False}])
def test_equals_loops(settings):
    m = part(**settings)
    m.write.weight.mul_(3.0)
    x = torch.randn(2, 21, 12, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-10, rtol=0)


@torch.no_grad()
def with_gates(write: float, forget: float) -> MLSTM:
    m = part(out_gate=False, cap=80.0)
    for gate, value in ((m.write, write), (m.forget, forget)):
        gate.weight.zero_()
        gate.bias.fill_(80.0 * math.atanh(value / 80.0))
    return m


@pytest.mark.oracle("mlstm")
@torch.no_grad()
def test_never_forgetting_it_is_linear_attention_over_what_was_collected():
    m, x = with_gates(0.0, 79.9), torch.randn(2, 40, 12, dtype=torch.float64)
    plain = LinearAttention(12, 4, head_dim=3, feature_map="identity", normalize=False).double()
    plain.load_state_dict({name: value for name, value in m.state_dict().items() if name[0] in "qkv"}, strict=False)
    plain.o = torch.nn.Identity()
    heads = plain(x)[0].unflatten(-1, (4, 3)) / math.sqrt(3)
    q, k = (part(x).unflatten(-1, (4, 3)) for part in (m.q, m.k))
    seen = (q * k.cumsum(1)).sum(-1, keepdim=True) / math.sqrt(3)
    read = heads / seen.abs().clamp_min(1.0)
    want = torch.nn.functional.layer_norm(read, (3,), eps=m.eps).flatten(-2) * m.weight
    torch.testing.assert_close(m(x)[0], m.o(want), atol=1e-9, rtol=0)


@pytest.mark.oracle("mlstm")
@torch.no_grad()
def test_forgetting_at_once_a_token_reads_only_itself():
    m, x = with_gates(5.0, -79.9), torch.randn(2, 20, 12, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0][:, 11:12], m(x[:, 11:12])[0], atol=1e-9, rtol=0)


@torch.no_grad()
def test_running_max_is_one_step_after_the_other():
    forget, write = -3 * torch.rand(2, 3, 37, dtype=torch.float64), 4 * torch.randn(2, 3, 37, dtype=torch.float64)
    forget[0, 0, 5], write[1, 2, 9] = -torch.inf, -torch.inf
    first = torch.rand(2, 3, dtype=torch.float64)
    m, rows = first, []
    for t in range(37):
        m = torch.maximum(forget[..., t] + m, write[..., t])
        rows.append(m)
    torch.testing.assert_close(running_max(forget, write, first), torch.stack(rows, -1), atol=1e-12, rtol=0)


@torch.no_grad()
def test_float32_stays_close_over_long_texts_and_large_gates():
    torch.manual_seed(0)
    m = MLSTM(16, 2, chunk=16)
    m.write.weight.normal_(std=8.0)
    m.forget.weight.normal_(std=4.0)
    x = torch.randn(1, 500, 16)
    y = m(x)[0]
    want = m.double()(x.double())[0]
    assert ((y - want).abs().amax(-1).median() < 1e-4 * want.abs().max()).item()


@pytest.mark.official("mlstm")
@torch.no_grad()
@pytest.mark.skipif(modeling_xlstm.external_xlstm, reason="the xlstm package is installed, and used instead")
def test_equals_transformers():
    torch.manual_seed(0)
    config = xLSTMConfig(hidden_size=16, num_heads=4, qk_dim_factor=1.0, v_dim_factor=1.0, chunk_size=8)
    theirs = modeling_xlstm.xLSTMLayer(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    ours = MLSTM(16, 4, cap=config.gate_soft_cap, eps=config.norm_eps)
    names = {"igate_preact": "write", "fgate_preact": "forget", "ogate_preact": "gate", "out_proj": "o"}
    for name, own in {**names, "q": "q", "k": "k", "v": "v"}.items():
        getattr(ours, own).load_state_dict(getattr(theirs, name).state_dict())
    ours.weight.copy_(theirs.multihead_norm.weight)
    x = torch.randn(2, 24, 16)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], atol=5e-5, rtol=0)


def test_memory_does_not_grow():
    m = MLSTM(16, 4, n_kv_heads=2)
    assert m.state_bytes(24) == m.state_bytes(1000) == 4 * 2 * (4 * 5 + 1)


@pytest.mark.parametrize("cap", [0.0, 81.0, math.nan])
def test_bad_configs_are_refused(cap):
    with pytest.raises(ValueError, match="cap must be above 0"):
        MLSTM(16, 4, cap=cap)
