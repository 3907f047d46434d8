"""Statistical top-k and Spark-FFN: oracles, the limits they contain, and Gemma 3n's feed-forward."""

import math
import statistics

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

from layersmith.ffn.glu import GLU
from layersmith.ffn.shared.statistical_topk import most_kept, quantile, threshold
from layersmith.ffn.spark_ffn import SparkFFN
from layersmith.kernels import chosen as kernel
from layersmith.kernels import native

D, HIDDEN = 6, 16


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(k: int, **config) -> SparkFFN:
    torch.manual_seed(1)
    return SparkFFN(D, HIDDEN, k, **config).double()


def product(matrix: torch.Tensor, token: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, token, strict=True)) for row in matrix.tolist()]


def by_loops(m: SparkFFN, token: list[float], k: int, soft: bool) -> list[float]:
    seen, rest = (token, token) if m.r is None else (token[: m.r], token[m.r :])
    p, value = product(m.predictor.weight, seen), product(m.value.weight, rest)
    mean = statistics.fmean(p)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in p) / len(p))
    theta = mean + deviation * statistics.NormalDist().inv_cdf(1 - k / len(p))
    y = [0.0] * len(token)
    for i, row in enumerate(m.out.tolist()):
        if p[i] > theta:
            a = p[i] - theta if soft else p[i]
            gelu = 0.5 * a * (1 + math.erf(a / math.sqrt(2)))
            y = [s + gelu * value[i] * w for s, w in zip(y, row, strict=True)]
    return y


@pytest.mark.oracle("spark_ffn")
@pytest.mark.parametrize("gather_tokens", [0, 100])
@pytest.mark.parametrize(("k", "r", "soft"), [(1, 2, True), (5, 2, True), (5, None, True), (9, 4, False)])
def test_by_loops(x, k, r, soft, gather_tokens):
    m = part(k, r=r, soft=soft, gather_tokens=gather_tokens)
    with torch.no_grad():
        got = m(x)
    for token, y in zip(x.reshape(-1, D).tolist(), got.reshape(-1, D).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token, k, soft), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("spark_ffn")
@pytest.mark.parametrize("act", ["silu", "relu", "sigmoid"])
def test_every_channel_active_is_the_dense_glu(x, act):
    glu = GLU(D, HIDDEN, act=act).double()
    torch.testing.assert_close(SparkFFN.from_glu(glu, HIDDEN)(x), glu(x), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("spark_ffn")
def test_predictor_and_value_are_a_glu_whose_matrices_read_separate_inputs(x):
    m = part(HIDDEN, r=2, soft=False)
    glu = GLU(D, HIDDEN, act="gelu").double()
    with torch.no_grad():
        glu.gate.weight.zero_()[:, :2] = m.predictor.weight
        glu.up.weight.zero_()[:, 2:] = m.value.weight
        glu.down.weight.copy_(m.out.T)
    torch.testing.assert_close(m(x), glu(x), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("spark_ffn")
def test_threshold_zero_makes_the_soft_threshold_a_relu():
    half = torch.randn(5, 8, dtype=torch.double)
    values = torch.cat([half, -half], dim=-1)  # mean 0, and Phi^-1(1 - 8/16) = 0
    theta = threshold(values, quantile(8, 16))
    assert theta.abs().max() < 1e-15
    torch.testing.assert_close((values - theta).clamp_min(0), values.relu())


@pytest.mark.oracle("spark_ffn")
@pytest.mark.parametrize("share", [0.05, 0.08, 0.25, 0.5])
def test_normal_values_keep_about_k(share):
    values = torch.randn(200, 2000, generator=torch.Generator().manual_seed(0)) * 3 + 5
    k = int(share * 2000)
    kept = (values > threshold(values, quantile(k, 2000))).sum(-1).float()
    assert kept.mean().item() == pytest.approx(k, rel=0.02)
    assert (kept - k).abs().max() < 0.02 * 2000


def test_no_values_keep_more_than_the_bound():
    torch.manual_seed(0)
    for k in (1, 5, 20, 40):
        worst = 0
        for trial in range(200):
            high = trial % 60 + 1  # two levels are the worst case
            values = torch.where(torch.arange(100) < high, 1.0, 0.0).double()[None]
            worst = max(worst, int((values > threshold(values, quantile(k, 100)) + 1e-9).sum()))
        assert k <= worst <= most_kept(k, 100)
    assert most_kept(60, 100) == 100


def test_equal_values_have_finite_gradients():
    values = torch.zeros(2, 8, requires_grad=True)
    threshold(values, quantile(2, 8)).sum().backward()
    assert torch.isfinite(values.grad).all()


@pytest.mark.parametrize("k", [3, HIDDEN])
def test_skipping_inactive_channels_equals_masking_them(x, k):
    config = {"r": 2, "soft": False}
    sparse, masked = part(k, gather_tokens=100, **config), part(k, gather_tokens=0, **config)
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), masked(x), rtol=1e-12, atol=1e-14)


def test_decoding_reads_only_active_rows():
    m, token = part(4, r=2), torch.randn(1, D, dtype=torch.double)
    with torch.no_grad():
        expected = m(token)
        inactive = ~m.gate(token[:, :2])[1][0]
        assert 0 < inactive.sum() < HIDDEN
        m.value.weight[inactive], m.out[inactive] = float("nan"), float("nan")
        assert torch.equal(m(token), expected)


def test_one_token_compiles_as_one_graph():
    m, token = part(4, r=2), torch.randn(1, D, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(m, fullgraph=True, backend="aot_eager")(token), m(token))


def test_cost_is_that_of_k_channels_when_decoding():
    m = part(4, r=2, gather_tokens=1)
    dense = 2 * HIDDEN + (D - 2) * HIDDEN + D * HIDDEN
    for tokens, expected in ((1, 2 * HIDDEN + 4 * (D - 2 + D)), (3, 3 * dense)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            m(torch.randn(1, tokens, D, dtype=torch.double))
        assert counter.get_total_flops() == m.cost(1, tokens).flops == 2 * expected
    cost = m.cost()
    assert cost.params == dense == 2 * D * HIDDEN  # an MLP of this width
    assert cost.active_params == 2 * HIDDEN + most_kept(4, HIDDEN) * (D - 2 + D)


@pytest.mark.official("spark_ffn")
@pytest.mark.parametrize("sparsity", [0.95, 0.5])
def test_equals_gemma_3ns_feed_forward(sparsity):
    torch.manual_seed(0)
    hidden = 80
    config = Gemma3nTextConfig(
        hidden_size=64,
        intermediate_size=hidden,
        num_hidden_layers=1,
        activation_sparsity_pattern=[sparsity],
        num_kv_shared_layers=0,
    )
    theirs = Gemma3nTextMLP(config, layer_idx=0).double()
    ours = SparkFFN(64, hidden, k=round((1 - sparsity) * hidden), act="gelu_tanh").double()
    with torch.no_grad():
        ours.predictor.weight.copy_(theirs.gate_proj.weight)
        ours.value.weight.copy_(theirs.up_proj.weight)
        ours.out.copy_(theirs.down_proj.weight.T)
    x = torch.randn(3, 5, 64, dtype=torch.double)
    expected = theirs(x)
    assert expected.abs().max() > 0.01
    # They take the quantile in float32.
    torch.testing.assert_close(ours(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 17}, "k=17 active channels, but there are d_hidden=16"),
        ({"k": 16}, "k = d_hidden is possible with soft=False"),
        ({"k": 4, "r": 6}, r"r=6 must lie between 1 and d_model - 1 = 5"),
        ({"k": 4, "r": 0}, "r=0 must lie between"),
        ({"k": 4, "gather_tokens": -1}, "gather_tokens must be at least 0"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        part(**config)


def test_a_glu_with_biases_is_refused():
    with pytest.raises(ValueError, match="has biases"):
        SparkFFN.from_glu(GLU(D, HIDDEN, bias=True), 4)


@pytest.mark.parametrize("r", [None, 3])
def test_in_float32_the_active_rows_are_read_by_the_kernel_where_the_tables_agree(r, monkeypatch):
    torch.manual_seed(0)
    m, x, calls = SparkFFN(12, 40, 9, r=r, gather_tokens=4), torch.randn(1, 3, 12), []
    run = kernel.chosen_rows
    monkeypatch.setattr(kernel, "chosen_rows", lambda *inputs: calls.append(1) or run(*inputs))
    with torch.no_grad():
        y = m(x)
        assert len(calls) == (3 if r is None and native.loaded() else 0)
        torch.testing.assert_close(y, m.double()(x.double()).float(), rtol=1e-4, atol=1e-6)
