"""A whole layer for one token in one call: float64 by hand, the operations one by one bit by bit, torch's rules."""

import math

import pytest
import torch
from torch import library
from torch.utils.flop_counter import FlopCounterMode

from layersmith.block import series
from layersmith.kernels import native, step
from layersmith.kernels.one_row import OneRowLinear
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.one_row import OneRow
from layersmith.linear.quantized import QuantizedLinear
from layersmith.mixer.shared import key_values

D, HIDDEN, GROUP = 64, 96, 32
MIXERS = {
    "plain": {"n_heads": 4},
    "grouped": {"n_heads": 4, "n_kv_heads": 2, "rope_theta": 100.0},
    "one for all": {"n_heads": 4, "n_kv_heads": 1, "head_dim": 8, "rope_theta": 1e4, "bias": True, "scale": 0.3},
    "part turns": {
        "n_heads": 2,
        "head_dim": 32,
        "rope_theta": 100.0,
        "rope_fraction": 0.5,
        "rope_interleaved": True,
        "out_bias": True,
    },
}
NORMS = [{}, {"bias": True, "eps": 0.1}, {"offset": True}]
FORMATS = {
    "one_row": lambda linear: linear,
    "one_row part": lambda linear: OneRow.from_weight(linear.weight, linear.bias),
    "8 bits": lambda linear: QuantizedLinear.from_weight(linear.weight, 8, GROUP, linear.bias),
    "4 bits": lambda linear: QuantizedLinear.from_weight(linear.weight, 4, GROUP, linear.bias),
    "4 bits x int8": lambda linear: rounding(linear),
    "int8": lambda linear: Int8Dynamic.from_weight(linear.weight, linear.bias),
}
MIXED = ["8 bits", "int8", "4 bits", "one_row"], ["4 bits x int8", "one_row part", "int8", "8 bits"]
EACH = [[name] * 4 for name in FORMATS] + list(MIXED)


@pytest.fixture
def served(monkeypatch):
    """How many tokens the kernel has taken."""
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")
    calls, run = [], step.series_step
    monkeypatch.setattr(step, "series_step", lambda *args: calls.append(1) or run(*args))
    return calls


def rounding(linear):
    made = QuantizedLinear.from_weight(linear.weight, 4, GROUP, linear.bias)
    part = QuantizedLinear(made.d_in, made.d_out, 4, GROUP, linear.bias is not None, input_bits=8)
    part.load_state_dict(made.state_dict())
    return part


def made(mixer, norm=None, formats=("one_row",) * 4, bias=False):
    """A layer of the kind that the kernel computes, with random numbers everywhere and its maps in these formats."""
    torch.manual_seed(0)
    layer = series.Series(
        D,
        {"name": "fused_attention", "one_row": True, **mixer},
        {"name": "fused_glu", "d_hidden": HIDDEN, "one_row": True, "bias": bias},
        {"name": "rms_norm", **(norm or {})},
        {"name": "rms_norm", **(norm or {})},
    ).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    places = (layer.mixer, "qkv"), (layer.mixer, "o"), (layer.ffn, "gate_up"), (layer.ffn, "down")
    for (part, name), form in zip(places, formats, strict=True):
        setattr(part, name, FORMATS[form](getattr(part, name)))
    return layer


def step_by_step(layer, x, first):
    """Outputs of the first tokens at once and then of one after another, the last state with them."""
    parts, state = [], None
    for piece in x.split([first, *[1] * (x.shape[1] - first)], dim=1):
        y, state = layer(piece, state)
        state = layer.keeper.settled(state)
        parts.append(y)
    return torch.cat(parts, 1), state


def by_hand(layer, x):
    """The equations in float64 over x (T, D), a token and a head at a time."""

    def through(linear, row):
        weight = linear.weight if isinstance(linear, OneRowLinear) else linear.dense_weight()
        return weight.double() @ row + (0 if linear.bias is None else linear.bias.double())

    def rms(norm, row):
        scale = norm.weight.double() + (1 if norm.offset else 0)
        y = row / (row.square().mean() + norm.eps).sqrt() * scale
        return y if norm.bias is None else y + norm.bias.double()

    def turned(head, position):
        size, done = mixer.rope_size, head.clone()
        for j in range(size // 2 if mixer.rope_theta else 0):
            a, b = (2 * j, 2 * j + 1) if mixer.rope_interleaved else (j, j + size // 2)
            angle = position * mixer.rope_theta ** (-2 * j / size)
            done[a] = head[a] * math.cos(angle) - head[b] * math.sin(angle)
            done[b] = head[b] * math.cos(angle) + head[a] * math.sin(angle)
        return done

    mixer, ffn, found, keys, values = layer.mixer, layer.ffn, [], [], []
    scale = mixer.scale or mixer.head_dim**-0.5
    for position, row in enumerate(x.double()):
        heads = through(mixer.qkv, rms(layer.norm, row)).view(-1, mixer.head_dim)
        q, k, v = heads.split([mixer.n_heads, mixer.n_kv_heads, mixer.n_kv_heads])
        keys.append([turned(head, position) for head in k])
        values.append(list(v))
        mixed = []
        for number, head in enumerate(q):
            group = number * mixer.n_kv_heads // mixer.n_heads
            scores = [scale * float(turned(head, position) @ of_token[group]) for of_token in keys]
            weights = torch.tensor(scores, dtype=torch.double).softmax(0)
            mixed.append(sum(w * of_token[group] for w, of_token in zip(weights, values, strict=True)))
        h = row + through(mixer.o, torch.cat(mixed))
        gate, up = through(ffn.gate_up, rms(layer.ffn_norm, h)).chunk(2)
        found.append(h + through(ffn.down, gate / (1 + (-gate).exp()) * up))
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.oracle("series")
@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("mixer", MIXERS)
def test_by_hand(mixer, norm, served, monkeypatch):
    monkeypatch.setattr(key_values, "ROOM", 8)
    layer = made(MIXERS[mixer], norm, bias=mixer == "one for all")
    x = torch.randn(1, 12, D)
    x[:, 3] *= 30
    got, _ = step_by_step(layer, x, 2)
    assert len(served) == 9  # all but the first and the one for which there was no room left
    want = by_hand(layer, x[0])
    torch.testing.assert_close(got[0].double(), want, atol=2e-6 * float(want.abs().max()), rtol=0)


@torch.no_grad()
@pytest.mark.oracle("series")
@pytest.mark.parametrize("format", ["8 bits", "4 bits"])
def test_by_hand_in_few_bits(format, served):
    layer = made(MIXERS["grouped"], formats=[format] * 4)
    x = torch.randn(1, 9, D)
    got, _ = step_by_step(layer, x, 2)
    assert len(served) == 7
    want = by_hand(layer, x[0])
    torch.testing.assert_close(got[0].double(), want, atol=2e-6 * float(want.abs().max()), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("formats", EACH, ids=", ".join)
def test_equals_the_single_operations_bit_by_bit(formats, mixer, bias, served, monkeypatch):
    monkeypatch.setattr(key_values, "ROOM", 16)
    layer = made({**MIXERS[mixer], "bias": bias, "out_bias": bias}, {"bias": bias}, formats, bias)
    x = torch.randn(1, 40, D)
    got, kept = step_by_step(layer, x, 3)
    assert len(served) == 35
    monkeypatch.setattr(series, "one_token", lambda *args: None)
    want, state = step_by_step(layer, x, 3)
    assert len(served) == 35
    assert torch.equal(got, want)
    assert kept.keys() == state.keys()
    for name in state:
        assert torch.equal(kept[name], state[name]), name


@torch.no_grad()
def test_a_room_is_used_to_its_end_and_then_made_anew(served, monkeypatch):
    layer, x = made(MIXERS["grouped"]), torch.randn(1, 131, D)
    got, _ = step_by_step(layer, x, 126)  # tokens 127 and 128 fill the room, 129 finds none
    assert len(served) == 4
    monkeypatch.setattr(series, "one_token", lambda *args: None)
    assert torch.equal(got, step_by_step(layer, x, 126)[0])


@torch.no_grad()
def test_equal_bits_for_every_number_of_threads(served):
    layer, x = made({"n_heads": 8, "head_dim": 128}), torch.randn(1, 40, D)
    _, prompt = layer(x[:, :37])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            state = layer.keeper.settled(prompt)
            for place in (37, 38, 39):
                y, state = layer(x[:, place : place + 1], state)
                found.append(y)
    finally:
        torch.set_num_threads(before)
    assert len(served) == 9
    assert all(torch.equal(y, found[place % 3]) for place, y in enumerate(found))


def arguments(formats):
    """What the operator is called with for one token after three others, in a room of eight."""
    layer = made({"n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "bias": True}, {"bias": True}, formats)
    maps = [m.row_form() for m in (layer.mixer.qkv, layer.mixer.o, layer.ffn.gate_up, layer.ffn.down)]
    (qkv, o, gate_up, down), forms = [list(held) for _, held in maps], [form for form, _ in maps]
    norms = [[norm.weight, norm.bias] for norm in (layer.norm, layer.ffn_norm)]
    rooms = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 8, 8)
    given = torch.randn(1, 1, D), norms[0], qkv, o, norms[1], gate_up, down, forms, [1e-6, 1e-5], [False, True]
    return *given, torch.randn(4, 2, 8), 3, *rooms, 3, 4, 0.4, False


@torch.no_grad()
@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("formats", MIXED, ids=", ".join)
def test_torch_s_rules_for_operators(formats):
    rules = ("test_schema", "test_faketensor")
    library.opcheck(torch.ops.layersmith.series_step.default, arguments(formats), test_utils=rules)
    with FlopCounterMode(display=False) as counter:
        torch.ops.layersmith.series_step(*arguments(formats))
    assert counter.get_total_flops() == 2 * D * (64 + 32 + 2 * HIDDEN + HIDDEN) + 4 * 32 * 4


@torch.no_grad()
@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (7, [0, 0, 0], "four forms"),
        (7, [0, 0, 0, 7], "no form 7"),
        (7, [0, 0, 0, 1], "consists of 4 tensors"),
        (14, 8, "no room"),
        (11, 4, "no room"),
        (15, 3, "sizes of q, k, v"),
        (0, torch.zeros(1, 1, 32), "sizes of q, k, v"),
        (1, [torch.ones(3), None], "norm's sizes"),
        (3, [torch.ones(D, 31), None], "attention's output"),
        (6, [torch.ones(D, HIDDEN + 1), None], "sizes of the GLU"),
        (6, [torch.ones(D, HIDDEN), torch.ones(3)], "bias is not 64 numbers"),
    ],
    ids=["forms", "form", "held", "full", "over", "qkv", "width", "norm", "o", "glu", "bias"],
)
def test_what_does_not_fit_is_refused(place, value, said):
    given = list(arguments(["one_row"] * 4))
    given[place] = value
    with pytest.raises(RuntimeError, match=said):
        torch.ops.layersmith.series_step(*given)
