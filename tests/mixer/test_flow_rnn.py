"""The flow-equivariant network against loops in float64, its equivariance, and the plain network that lacks it."""

import math

import pytest
import torch

from layersmith.mixer.flow_rnn import FlowRNN


def on_the_ring(kernel, bias, maps, places):
    """Cyclic convolution, as torch means it (without turning the kernel round), of maps[c][g]."""
    reach = len(kernel[0][0]) // 2
    return [
        [
            (0.0 if bias is None else bias[o])
            + sum(
                kernel[o][c][reach + r] * maps[c][(g + r) % places]
                for c in range(len(maps))
                for r in range(-reach, reach + 1)
            )
            for g in range(places)
        ]
        for o in range(len(kernel))
    ]


def flow_rnn_by_loops(m: FlowRNN, x: torch.Tensor, velocities: list[int]) -> torch.Tensor:
    places, hidden = x.shape[1] // m.channels, m.recur.out_channels
    inward, inward_bias = m.inward.weight.tolist(), m.inward.bias.tolist()
    recur = m.recur.weight.tolist()
    outward, outward_bias = m.outward.weight.tolist(), m.outward.bias.tolist()
    held = {v: [[0.0] * places for _ in range(hidden)] for v in velocities}
    rows = []
    for token in x.tolist():
        signal = [token[c * places : (c + 1) * places] for c in range(m.channels)]
        read = on_the_ring(inward, inward_bias, signal, places)
        for v in velocities:
            past = on_the_ring(recur, None, held[v], places)
            held[v] = [
                [math.tanh(past[o][(g - v) % places] + read[o][g]) for g in range(places)] for o in range(hidden)
            ]
        best = [[max(held[v][o][g] for v in velocities) for g in range(places)] for o in range(hidden)]
        rows.append([e for channel in on_the_ring(outward, outward_bias, best, places) for e in channel])
    return torch.tensor(rows, dtype=x.dtype)


def part(**config) -> FlowRNN:
    torch.manual_seed(0)
    m = FlowRNN(**{"d_model": 8, "d_hidden": 3, "velocities": None, **config}).double()
    with torch.no_grad():
        m.recur.weight.mul_(2)
    return m


@pytest.mark.oracle("flow_rnn")
@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "velocities"),
    [({}, list(range(8))), ({"velocities": 1}, [-1, 0, 1]), ({"channels": 2, "velocities": 1}, [-1, 0, 1])],
    ids=str,
)
def test_equals_loops(config, velocities):
    m = part(**config)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    want = torch.stack([flow_rnn_by_loops(m, row, velocities) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


def moving(x: torch.Tensor, velocity: int) -> torch.Tensor:
    """x (B, T, G), token t moved on by velocity t places."""
    return torch.stack([token.roll(velocity * t, -1) for t, token in enumerate(x.unbind(1))], dim=1)


@pytest.mark.oracle("flow_rnn")
@torch.no_grad()
@pytest.mark.parametrize("velocity", [-2, 1, 3])
def test_it_moves_with_its_input(velocity):
    m, x = part(), torch.randn(2, 12, 8, dtype=torch.float64)
    (y, state), (moved, moved_state) = m(x), m(moving(x, velocity))
    torch.testing.assert_close(moved, moving(y, velocity), atol=1e-12, rtol=0)
    # h of velocity v has become that of velocity v - u, moved by u t
    want = state["h"].roll(velocity, 1).roll(velocity * 11, -1)
    torch.testing.assert_close(moved_state["h"], want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_plain_network_does_not():
    m, x = part(velocities=0), torch.randn(2, 12, 8, dtype=torch.float64)
    assert (m(moving(x, 1))[0] - moving(m(x)[0], 1)).abs().max() > 0.01
    torch.testing.assert_close(m(x.roll(3, -1))[0], m(x)[0].roll(3, -1), atol=1e-12, rtol=0)


@pytest.mark.oracle("flow_rnn")
@torch.no_grad()
def test_without_velocities_it_is_a_convolutional_recurrent_network():
    m, x = part(velocities=0, d_hidden=2), torch.randn(1, 6, 8, dtype=torch.float64)
    h, rows = torch.zeros(1, 2, 8, dtype=torch.float64), []
    for token in x.unbind(1):
        around = torch.nn.functional.pad(h, (1, 1), mode="circular")
        seen = torch.nn.functional.pad(token[:, None], (1, 1), mode="circular")
        h = (m.recur(around) + m.inward(seen)).tanh()
        rows.append(m.outward(torch.nn.functional.pad(h, (1, 1), mode="circular")).flatten(1))
    torch.testing.assert_close(m(x)[0], torch.stack(rows, 1), atol=1e-12, rtol=0)


def test_bad_configs_are_refused():
    for wrong, message in (
        ({"channels": 3}, "channels"),
        ({"kernel": 2}, "odd"),
        ({"kernel": 9}, "places"),
        ({"velocities": 4}, "velocities"),
        ({"velocities": -1}, "velocities"),
    ):
        with pytest.raises(ValueError, match=message):
            FlowRNN(**{"d_model": 8, "d_hidden": 2, **wrong})
