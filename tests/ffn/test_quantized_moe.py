"""A mixture with packed experts: the grid by loops, the mixture of what it stands for, bytes, and refusals."""

import pytest
import torch

from layersmith import catalogue
from layersmith.ffn.glu import GLU
from layersmith.ffn.quantized_moe import QuantizedMoE
from layersmith.ffn.topk_moe import TopKMoE

BITS = (8, 4, 3, 2)


def mixture(gated=True, renormalize=True, n_experts=5, k=2):
    torch.manual_seed(0)
    return TopKMoE(16, 24, n_experts, k, gated=gated, renormalize=renormalize).eval()


def on_grid(row, bits):
    top = 2 ** (bits - 1) - 1
    scale = torch.tensor(max(abs(v) for v in row) / top).half().item()
    return [round(v / scale) * scale for v in row]


@pytest.mark.oracle("quantized_moe")
@pytest.mark.parametrize("bits", BITS)
def test_experts_are_rounded_row_by_row_and_the_router_is_not(bits):
    moe = mixture()
    part = QuantizedMoE.from_moe(moe, bits)
    assert torch.equal(part.router, moe.router)
    for name in ("up", "gate", "down"):
        weight = getattr(moe.experts, name).detach().double()
        expected = torch.tensor([[on_grid(row, bits) for row in expert] for expert in weight.tolist()])
        torch.testing.assert_close(part.weight(name), expected, rtol=1e-5, atol=1e-6)
        step = weight.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((part.weight(name).double() - weight).abs() <= 0.501 * step + 1e-6).all()


@pytest.mark.oracle("quantized_moe")
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("renormalize", [True, False])
def test_is_the_mixture_of_its_unpacked_experts_by_loops(gated, renormalize):
    moe = mixture(gated, renormalize)
    part = QuantizedMoE.from_moe(moe, 3).double().eval()
    x = torch.randn(7, 16, dtype=torch.float64)
    for row, y in zip(x, part(x), strict=True):
        p = (moe.router.detach().double() @ row).softmax(0)
        chosen = p.topk(2).indices.tolist()
        total = sum(float(p[e]) for e in chosen) if renormalize else 1.0
        expected = torch.zeros(16, dtype=torch.float64)
        for e in chosen:
            hidden = part.weight("up")[e].double() @ row
            act = torch.nn.functional.silu
            hidden = act(part.weight("gate")[e].double() @ row) * hidden if gated else act(hidden)
            expected += float(p[e]) / total * (part.weight("down")[e].double() @ hidden)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-8)


def test_what_lies_on_the_grid_is_kept_and_one_expert_is_a_dense_feed_forward():
    moe = mixture(n_experts=1, k=1)
    with torch.no_grad():
        for name in ("up", "gate", "down"):
            weight = getattr(moe.experts, name)
            weight.copy_(torch.randint(-1, 2, weight.shape) * 0.25)
            weight[..., 0] = 0.25
    part = QuantizedMoE.from_moe(moe, 2)
    dense = GLU(16, 24, act="silu", bias=False)
    dense.load_state_dict({f"{name}.weight": getattr(moe.experts, name)[0].detach() for name in ("up", "gate", "down")})
    x = torch.randn(9, 16)
    torch.testing.assert_close(part(x), moe(x), rtol=0, atol=0)
    torch.testing.assert_close(part(x), dense(x))


@pytest.mark.parametrize("bits", BITS)
def test_bytes_are_those_of_packed_experts(bits):
    part = QuantizedMoE(16, 24, 6, 2, bits)
    weights = 6 * 3 * 16 * 24
    cost = part.cost(1, 5)
    assert cost.weight_bytes == 6 * 16 * 4 + weights * bits // 8 + 6 * (24 + 24 + 16) * 4
    assert cost.params == 6 * 16 + weights
    assert cost.active_params == 6 * 16 + weights // 3
    rebuilt = catalogue.build(part.spec())
    rebuilt.load_state_dict(part.state_dict())
    x = torch.randn(4, 16)
    assert torch.equal(rebuilt(x), part(x))


def test_fewer_bits_are_further_off():
    moe, x = mixture(), torch.randn(64, 16)
    errors = [float((QuantizedMoE.from_moe(moe, bits)(x) - moe(x)).norm().detach()) for bits in BITS]
    assert errors == sorted(errors)


@pytest.mark.parametrize(
    ("config", "message"), [({"k": 9}, "k=9"), ({"bits": 5}, "bits"), ({"d_expert": 0}, "d_expert")]
)
def test_bad_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        QuantizedMoE(**{"d_model": 8, "d_expert": 8, "n_experts": 4, "k": 2, **config})


def test_weights_that_are_not_finite_are_refused():
    moe = mixture()
    with torch.no_grad():
        moe.experts.up[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN, infinite"):
        QuantizedMoE.from_moe(moe, 4)
