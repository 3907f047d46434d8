"""One token times packed integers: the compiled kernel against float64, the plain path, and who is served by what."""

import pytest
import torch
from torch import library
from torch.utils.flop_counter import FlopCounterMode

from layersmith.kernels import native, packed
from layersmith.linear.quantized import QuantizedLinear, rounded_inputs

CASES = [(8, 16, 16, 1), (8, 64, 576, 40), (8, 576, 576, 7), (4, 32, 32, 5), (4, 64, 576, 40), (4, 128, 1536, 9)]


@pytest.fixture(autouse=True)
def _kernels():
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")


def by_hand(part, x):
    """The formula in float64, from the codes, scales and zeros that are stored."""
    codes = part.packed.long()
    if part.bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), -1).flatten(1)
    codes = codes.double().unflatten(1, (-1, part.group_size))
    weight = (codes - part.zero.double()[..., None]) * part.scale.double()[..., None]
    return x.double() @ weight.flatten(1).T + (0 if part.bias is None else part.bias.double())


@torch.no_grad()
@pytest.mark.oracle("quantized")
@pytest.mark.parametrize("way", ["compiled", "plain"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("bits", "group", "d_in", "d_out"), CASES)
def test_one_row_by_hand(bits, group, d_in, d_out, bias, way, monkeypatch):
    torch.manual_seed(0)
    offset = torch.randn(d_out) if bias else None
    part = QuantizedLinear.from_weight(torch.randn(d_out, d_in), bits, group, offset)
    x = torch.randn(1, 1, d_in)
    x[..., 3] = 100.0
    served = []
    run = packed.packed_row
    monkeypatch.setattr(packed, "packed_row", lambda *args: served.append(1) or run(*args))
    if way == "plain":
        monkeypatch.setattr(native, "_load", lambda: False)
    got = part(x)
    assert len(served) == (way == "compiled")
    want = by_hand(part, x)
    torch.testing.assert_close(got.double(), want, atol=2e-6 * float(want.abs().max()), rtol=0)


@torch.no_grad()
@pytest.mark.oracle("quantized")
@pytest.mark.parametrize("way", ["compiled", "plain"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("bits", "group", "d_in", "d_out"), [case for case in CASES if case[0] == 4])
def test_one_rounded_row_by_hand(bits, group, d_in, d_out, bias, way, monkeypatch):
    torch.manual_seed(0)
    offset = torch.randn(d_out) if bias else None
    made = QuantizedLinear.from_weight(torch.randn(d_out, d_in), bits, group, offset)
    part = QuantizedLinear(d_in, d_out, bits, group, bias, input_bits=8)
    part.load_state_dict(made.state_dict())
    x = torch.randn(1, 1, d_in)
    x[..., 3] = 100.0  # the rest of its group is lost, and no other
    served = []
    run = packed.packed_row_int8
    monkeypatch.setattr(packed, "packed_row_int8", lambda *args: served.append(1) or run(*args))
    if way == "plain":
        monkeypatch.setattr(native, "_load", lambda: False)
    got = part(x)
    assert len(served) == (way == "compiled")
    groups = x.double().unflatten(-1, (-1, group))
    step = groups.abs().amax(-1, keepdim=True) / 127
    want = by_hand(part, ((groups / step).round() * step).flatten(-2))
    torch.testing.assert_close(got.double(), want, atol=2e-6 * float(want.abs().max()), rtol=0)
    assert (want - by_hand(part, x)).norm() > 1e-4 * want.norm()


@torch.no_grad()
@pytest.mark.parametrize(("bits", "group", "d_in", "d_out"), CASES)
def test_unpacked_is_the_matrix_bit_by_bit(bits, group, d_in, d_out):
    part = QuantizedLinear(d_in, d_out, bits, group)
    assert torch.equal(packed.unpacked(part.packed, part.scale_bits, part.zero_bits, bits), part.unpacked())


@torch.no_grad()
def test_what_the_kernel_does_not_take_is_the_reference_s(monkeypatch):
    def refuse(*args):
        raise AssertionError("not for the kernel")

    monkeypatch.setattr(packed, "packed_row_int8", refuse)
    for config in ({"bits": 8, "group_size": 32}, {"bits": 4, "group_size": 16}, {"bits": 4, "group_size": 96}):
        part, x = QuantizedLinear(192, 8, **config, input_bits=8), torch.randn(1, 192)
        want = rounded_inputs(x, part.group_size).double() @ part.dense_weight().double().T
        torch.testing.assert_close(part(x).double(), want, atol=1e-5, rtol=0)
    monkeypatch.setattr(packed, "packed_row", refuse)
    for config in ({"bits": 3, "group_size": 32}, {"bits": 4, "group_size": 16}, {"bits": 8, "group_size": 8}):
        part, x = QuantizedLinear(64, 8, **config), torch.randn(1, 64)
        torch.testing.assert_close(part(x).double(), x.double() @ part.dense_weight().double().T, atol=1e-5, rtol=0)
    part = QuantizedLinear(64, 8, bits=8, group_size=32)
    for x in (torch.randn(2, 64), torch.randn(0, 64), torch.randn(1, 64).double(), torch.randn(1, 64).bfloat16()):
        assert part(x).dtype == x.dtype
    with torch.enable_grad():
        x = torch.randn(1, 64, requires_grad=True)
        part(x).sum().backward()
        torch.testing.assert_close(x.grad, part.dense_weight().sum(0)[None])


@torch.no_grad()
@pytest.mark.parametrize(("bits", "input_bits"), [(8, None), (4, None), (4, 8)])
def test_equal_bits_for_every_number_of_threads(bits, input_bits):
    part, x = QuantizedLinear(576, 3000, bits, 64, input_bits=input_bits), torch.randn(1, 576)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(part(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_torch_s_rules_for_operators():
    part = QuantizedLinear(64, 6, 4, 32)
    stored = (part.packed, part.scale_bits, part.zero_bits)
    rules = ("test_schema", "test_faketensor")
    arguments = (torch.randn(1, 64), *stored, None, 4)
    library.opcheck(torch.ops.layersmith.packed_row.default, arguments, test_utils=rules)
    library.opcheck(torch.ops.layersmith.packed_row_int8.default, arguments[:-1], test_utils=rules)
    library.opcheck(torch.ops.layersmith.unpacked.default, (*stored, 4), test_utils=rules)
    for run in (
        lambda: torch.ops.layersmith.packed_row(*arguments),
        lambda: torch.ops.layersmith.packed_row_int8(*arguments[:-1]),
    ):
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == 2 * 6 * 64
