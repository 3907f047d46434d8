"""Packed quantized weights: exact packing, the rounding grid, storage, and the forward pass."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from layersmith import catalogue
from layersmith.linear.dense import Dense
from layersmith.linear.quantized import QuantizedLinear, nearest_codes, pack, unpack

BITS = (8, 4, 3, 2)


@settings(max_examples=60, deadline=None)
@given(bits=st.sampled_from(BITS), n=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_packing_is_exact(bits, n, seed):
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, (3, n), dtype=np.uint8))
    assert torch.equal(unpack(pack(codes, bits), bits, n), codes)


@pytest.mark.parametrize("bits", BITS)
def test_packed_bits_stand_in_little_endian_order(bits):
    codes = [i % 2**bits for i in range(3, 27)]
    number = sum(code << (bits * i) for i, code in enumerate(codes))
    expected = list(number.to_bytes(24 * bits // 8, "little"))
    assert pack(torch.tensor(codes, dtype=torch.uint8), bits).tolist() == expected


@pytest.mark.oracle("quantized")
@pytest.mark.parametrize("bits", BITS)
def test_rounding_by_loops(bits):
    torch.manual_seed(0)
    weight = torch.randn(4, 12)
    part = QuantizedLinear.from_weight(weight, bits, group_size=6)
    got = part.dense_weight().numpy()
    levels = 2**bits - 1
    for o in range(4):
        for g in range(2):
            group = weight[o, 6 * g : 6 * g + 6].tolist()
            low, high = min(0.0, *group), max(0.0, *group)
            scale = float(np.float16((high - low) / levels))
            zero = round(-low / scale)
            for i, value in enumerate(group):
                code = min(max(round(value / scale) + zero, 0), levels)
                assert got[o, 6 * g + i] == pytest.approx((code - zero) * scale, rel=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_error_is_at_most_half_a_step_and_zero_stays_zero(bits):
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    weight[:, ::7] = 0
    part = QuantizedLinear.from_weight(weight, bits, group_size=16)
    step = part.scale.float().repeat_interleave(16, dim=1)
    error = (part.dense_weight() - weight).abs()
    # The zero point is rounded too, and scales lose 2^-11 in fp16: the ends of a group may miss by a whole step.
    assert (error <= 1.01 * step).all()
    assert error.square().mean().sqrt() < 0.35 * step.square().mean().sqrt()
    assert not error[:, ::7].any()


@pytest.mark.oracle("quantized")
@pytest.mark.parametrize("bits", BITS)
def test_weights_on_the_grid_are_kept_exactly(bits):
    torch.manual_seed(0)
    codes = torch.randint(0, 2**bits, (8, 32), dtype=torch.uint8)
    codes[:, ::8], codes[:, 1::8] = 0, 2**bits - 1  # every group of 8 spans the whole grid
    scale, zero = torch.full((8, 4), 0.25), torch.full((8, 4), 3.0)
    part = QuantizedLinear.from_codes(codes, scale, zero, bits)
    expected = (codes.float() - 3) * 0.25
    assert torch.equal(part.dense_weight(), expected)
    again = QuantizedLinear.from_weight(expected, bits, group_size=8)
    assert torch.equal(again.packed, part.packed)
    assert torch.equal(again.scale, part.scale)
    assert torch.equal(again.zero, part.zero)


@pytest.mark.oracle("quantized")
@pytest.mark.parametrize("bits", BITS)
def test_forward_is_the_dense_map_of_the_dequantised_matrix(bits):
    torch.manual_seed(0)
    bias = torch.randn(6)
    part = QuantizedLinear.from_weight(torch.randn(6, 16), bits, 8, bias)
    x = torch.randn(2, 3, 16)
    torch.testing.assert_close(part(x), Dense.from_weight(part.dense_weight(), bias)(x))


@pytest.mark.parametrize("bits", BITS)
def test_nearest_codes_leave_a_grid_whose_zero_lies_between_two_levels_where_it_is(bits):
    codes = torch.arange(2**bits, dtype=torch.uint8)[None]
    scale = torch.full((1, 1), 0.5).half()
    for zero in (0.6, 1.0, 1.4, 2.5):
        zeros = torch.full((1, 1), zero).half()
        weight = (codes.float() - zeros.float()) * scale.float()
        assert torch.equal(nearest_codes(weight, scale, zeros, bits), codes)


@pytest.mark.oracle("quantized")
@pytest.mark.parametrize("bits", BITS)
def test_inputs_are_rounded_group_by_group_of_every_token(bits):
    torch.manual_seed(0)
    bias = torch.randn(6)
    made = QuantizedLinear.from_weight(torch.randn(6, 16), bits, 8, bias)
    part = QuantizedLinear(16, 6, bits, 8, True, input_bits=8)
    part.load_state_dict(made.state_dict())
    x = torch.randn(2, 3, 16)
    x[0, 0, 3], x[1, 1] = 500.0, 0.0
    rounded = torch.zeros_like(x, dtype=torch.double)
    for b in range(2):
        for t in range(3):
            for start in (0, 8):
                values = x[b, t, start : start + 8].double()
                step = float(values.abs().max()) / 127 or 1.0
                rounded[b, t, start : start + 8] = torch.tensor([round(float(v) / step) * step for v in values])
    want = rounded @ part.dense_weight().double().T + bias.double()
    torch.testing.assert_close(part(x).double(), want, rtol=1e-4, atol=1e-4)
    alone = torch.stack([torch.stack([part(token[None])[0] for token in row]) for row in x])
    torch.testing.assert_close(part(x), alone)
    assert torch.equal(part.double()(x.double()), made.double()(x.double()))  # never rounded there


def test_gradients_pass_straight_through_the_rounding_of_inputs():
    part = QuantizedLinear(16, 6, 4, 8, input_bits=8)
    x = torch.randn(2, 16, requires_grad=True)
    y = part(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, part.dense_weight().sum(0).expand(2, 16))
    with torch.no_grad():
        torch.testing.assert_close(part(x), y)


@pytest.mark.parametrize("bits", BITS)
def test_storage_is_really_small(bits):
    part = QuantizedLinear(64, 48, bits, group_size=32)
    packed = 48 * 64 * bits // 8
    assert part.packed.numel() == packed
    cost = part.cost(1, 5)
    assert cost.weight_bytes == packed + 48 * 2 * 2 * 2
    assert cost.params == cost.active_params == 48 * 64
    with FlopCounterMode(display=False) as counter:
        part(torch.randn(1, 5, 64))
    assert cost.flops == counter.get_total_flops() == 2 * 5 * 48 * 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casting_a_model_leaves_the_grid_alone(dtype):
    part = QuantizedLinear.from_weight(torch.randn(6, 16), 4, 8)
    before = part.dense_weight()
    size = part.cost().weight_bytes
    part.to(dtype)
    assert torch.equal(part.dense_weight(), before)
    assert part.cost().weight_bytes == size
    assert part(torch.randn(2, 16, dtype=dtype)).dtype == dtype


def test_groups_of_zeros_tiny_and_one_signed_weights():
    weight = torch.zeros(3, 8)
    weight[1] = 1e-9  # the step would underflow in fp16
    weight[2] = torch.linspace(1, 2, 8)
    part = QuantizedLinear.from_weight(weight, 4, 8)
    got = part.dense_weight()
    assert torch.isfinite(got).all()
    assert not got[0].any()
    assert got[1].abs().max() < 1e-6
    assert (got[2] - weight[2]).abs().max() < 2 / 15


def test_gradient_flows_to_the_input_and_the_bias():
    part = QuantizedLinear.from_weight(torch.randn(6, 16), 3, 8, torch.zeros(6))
    x = torch.randn(2, 16, requires_grad=True)
    part(x).sum().backward()
    torch.testing.assert_close(x.grad, part.dense_weight().sum(0).expand(2, 16))
    assert part.bias.grad.tolist() == [2.0] * 6


def test_round_trip_through_spec_and_state_dict():
    part = QuantizedLinear.from_weight(torch.randn(6, 16), 3, 8, torch.randn(6))
    rebuilt = catalogue.build(part.spec())
    rebuilt.load_state_dict(part.state_dict())
    x = torch.randn(4, 16)
    assert torch.equal(rebuilt(x), part(x))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_weights_that_no_grid_holds_are_refused(value):
    weight = torch.randn(6, 16)
    weight[2, 3] = value
    with pytest.raises(ValueError, match="NaN, infinity or values too large"):
        QuantizedLinear.from_weight(weight, 4, 8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bits": 5}, r"bits must be one of \[2, 3, 4, 8\], not 5"),
        (
            {"group_size": 128},
            "group_size=128 does not divide d_in=576. The largest group size below it that does is 96",
        ),
        ({"group_size": 0}, "group_size must be a positive integer"),
        ({"input_bits": 4}, "input_bits must be 8 or None, not 4"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        QuantizedLinear(576, 8, **config)


def test_group_size_is_refused_from_a_weight_too():
    with pytest.raises(ValueError, match="does not divide"):
        QuantizedLinear.from_weight(torch.randn(4, 10), 4, 4)


def test_more_bits_are_more_accurate():
    weight = torch.randn(32, 64)
    error = [(QuantizedLinear.from_weight(weight, b, 32).dense_weight() - weight).norm().item() for b in BITS]
    assert error == sorted(error)
    assert math.isclose(error[2] / error[0], 255 / 7, rel_tol=0.2)  # error is proportional to the step
