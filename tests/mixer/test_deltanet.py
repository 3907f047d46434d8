"""DeltaNet against float64 loops of the equation, the delta rule's limit cases, and transformers' delta rule."""

import math

import pytest
import torch
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

from layersmith.mixer.deltanet import DeltaNet
from layersmith.mixer.shared.delta_rule import delta_rule_chunked, delta_rule_recurrent, solve_unit_lower


def sigmoid(e):
    return 1 / (1 + math.exp(-e))


def conv_silu(signal, kernels):
    """Causal depthwise convolution and SiLU of a list of vectors, by the definition."""
    out = []
    for t in range(len(signal)):
        row = []
        for c, kernel in enumerate(kernels):
            reach = len(kernel) - 1
            total = sum(kernel[reach - j] * signal[t - j][c] for j in range(reach + 1) if t - j >= 0)
            row.append(total * sigmoid(total))
        out.append(row)
    return out


def deltanet_by_loops(m: DeltaNet, x: torch.Tensor) -> torch.Tensor:
    """The whole layer for one sequence x (T, D), one number at a time."""
    d, heads = m.head_dim, m.beta.out_features
    kernels = m.conv.weight[:, 0].tolist()
    width = heads * d
    parts = []
    for i, projection in enumerate((m.q, m.k, m.v)):
        parts.append(conv_silu(projection(x).tolist(), kernels[i * width : (i + 1) * width]))
    rows = []
    memory = [[[0.0] * d for _ in range(d)] for _ in range(heads)]
    for t in range(len(x)):
        joined = []
        for h in range(heads):
            q, k, v = (part[t][h * d : (h + 1) * d] for part in parts)
            q, k = ([e / math.sqrt(sum(f * f for f in u) + 1e-6) for e in u] for u in (q, k))
            beta, s = sigmoid(float(m.beta.weight[h] @ x[t])), memory[h]
            error = [v[j] - sum(k[i] * s[i][j] for i in range(d)) for j in range(d)]
            for i in range(d):
                for j in range(d):
                    s[i][j] += beta * k[i] * error[j]
            read = [sum(q[i] * s[i][j] for i in range(d)) / math.sqrt(d) for j in range(d)]
            size = math.sqrt(sum(e * e for e in read) / d + m.norm.eps)
            joined += [float(m.norm.weight[j]) * read[j] / size for j in range(d)]
        rows.append(joined)
    return m.o(torch.tensor(rows, dtype=x.dtype))


@pytest.mark.oracle("deltanet")
@torch.no_grad()
def test_equals_loops():
    torch.manual_seed(0)
    m = DeltaNet(12, 2, head_dim=5, chunk=4).double()
    m.norm.weight.normal_()
    x = torch.randn(2, 11, 12, dtype=torch.float64)
    want = torch.stack([deltanet_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


def random_inputs(tokens, d=6, dtype=torch.float64):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, tokens, d, dtype=dtype)
    beta = torch.rand(2, 3, tokens, 1, dtype=dtype)
    return q, torch.nn.functional.normalize(k, dim=-1), v, beta, torch.randn(2, 3, d, d, dtype=dtype)


@pytest.mark.oracle("deltanet")
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_chunked_equals_recurrent(tokens, dtype, bound):
    parts = random_inputs(tokens, dtype=dtype)
    y, state = delta_rule_chunked(*parts, 64)
    want, want_state = delta_rule_recurrent(*parts)
    torch.testing.assert_close(y, want, atol=bound, rtol=0)
    torch.testing.assert_close(state, want_state, atol=bound, rtol=0)


def test_gradients_of_both_forms_are_equal():
    parts = [part.requires_grad_() for part in random_inputs(23)]
    grads = []
    for run in (lambda: delta_rule_chunked(*parts, 8), lambda: delta_rule_recurrent(*parts)):
        y, state = run()
        grads.append(torch.autograd.grad(y.square().sum() + state.sum(), parts))
    for ours, want in zip(*grads, strict=True):
        torch.testing.assert_close(ours, want, atol=1e-9, rtol=0)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64])
def test_triangular_systems_are_solved_with_all_gradients(rows):
    torch.manual_seed(0)
    a = (0.3 * torch.randn(2, 3, rows, rows, dtype=torch.float64)).tril(-1).requires_grad_()
    b = torch.randn(2, 3, rows, 5, dtype=torch.float64, requires_grad=True)
    ours = solve_unit_lower(a, b)
    want = torch.linalg.solve_triangular(a, b, upper=False, unitriangular=True)
    torch.testing.assert_close(ours, want, atol=1e-9, rtol=1e-9)
    weights = torch.randn_like(b) / want.detach().abs().amax()
    grads = [torch.autograd.grad((x * weights).sum(), (a, b)) for x in (ours, want)]
    torch.testing.assert_close(grads[0][0].tril(-1), grads[1][0].tril(-1), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(grads[0][1], grads[1][1], atol=1e-7, rtol=1e-7)


def test_a_key_that_repeats_through_a_chunk_costs_no_precision():
    """beta 1 and one key all along: powers of the coupling grow binomially, and have to cancel."""
    k = torch.zeros(1, 1, 64, 6)
    k[..., 0] = 1
    v = torch.randn(1, 1, 64, 6)
    y, _ = delta_rule_chunked(k, k, v, torch.ones(1, 1, 64, 1), torch.zeros(1, 1, 6, 6), 64)
    torch.testing.assert_close(y, v, atol=2e-5, rtol=0)


def both_forms(*parts):
    return [delta_rule_recurrent(*parts), delta_rule_chunked(*parts, 4)]


@pytest.mark.oracle("deltanet")
def test_beta_zero_leaves_the_state():
    q, k, v, beta, state = random_inputs(9)
    for y, after in both_forms(q, k, v, torch.zeros_like(beta), state):
        torch.testing.assert_close(after, state, atol=1e-14, rtol=0)
        torch.testing.assert_close(y, q @ state, atol=1e-14, rtol=0)


def test_beta_one_overwrites_the_value_of_a_key():
    _, k, v, beta, state = random_inputs(9)
    k = k[:, :, :1].expand_as(k)  # the same key nine times
    for y, _ in both_forms(k, k, v, torch.ones_like(beta), state):
        torch.testing.assert_close(y, v, atol=1e-12, rtol=0)


@pytest.mark.oracle("deltanet")
def test_orthogonal_keys_at_beta_one_are_plain_linear_attention():
    q, _, v, beta, _ = random_inputs(6)
    k = torch.eye(6, dtype=torch.float64).expand(2, 3, 6, 6)
    for y, _ in both_forms(q, k, v, torch.ones_like(beta), torch.zeros(2, 3, 6, 6, dtype=torch.float64)):
        torch.testing.assert_close(y, (q @ k.mT).tril() @ v, atol=1e-12, rtol=0)


@pytest.mark.parametrize("theirs", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_equals_transformers_delta_rule_without_gate(theirs):
    """Qwen3-Next's gated delta rule with its gate held at exp(0) = 1, query scale and L2 norm included."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 70, 3, 8)
    beta = torch.rand(2, 70, 3)
    state = torch.randn(2, 3, 8, 8)
    want, want_state = getattr(qwen3_next, theirs)(
        q, k, v, g=torch.zeros(2, 70, 3), beta=beta, initial_state=state, output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    unit_q, unit_k = (u * torch.rsqrt(u.square().sum(-1, keepdim=True) + 1e-6) for u in (q, k))
    parts = [u.transpose(1, 2) for u in (unit_q / math.sqrt(8), unit_k, v, beta[..., None])]
    y, last = delta_rule_chunked(*parts, state, 64)
    torch.testing.assert_close(y.transpose(1, 2), want, atol=1e-5, rtol=0)
    torch.testing.assert_close(last, want_state, atol=1e-5, rtol=0)


def test_cost_counts_products_and_convolutions():
    m = DeltaNet(16, 2, chunk=8)
    tokens, d, heads, chunk = 24, 8, 2, 8
    projections = 2 * tokens * 16 * (4 * 16 + 2)
    convolution = 2 * tokens * 48 * 4
    per_token = 3 * 2 * chunk * d  # K K^T, Q K^T, tril(Q K^T) R
    per_token += 3 * 2 * d * d  # W S, Q S, K^T R
    per_token += 4 * 2 * chunk**2 + 2 * chunk * 2 * d  # one block of 8: its inverse, times K and V
    assert m.cost(tokens=tokens).flops == projections + convolution + heads * tokens * per_token
    assert m.state_bytes(24) == m.state_bytes(1000) == 4 * (2 * 8 * 8 + 48 * 3)


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="conv must be a positive integer"):
        DeltaNet(16, 2, conv=0)
    with pytest.raises(ValueError, match="multiple of n_heads"):
        DeltaNet(16, 3)
