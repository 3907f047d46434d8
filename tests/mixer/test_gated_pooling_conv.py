"""Gated pooling against float64 loops, its reach, and gates that pick one of two."""

import pytest
import torch

from layersmith.mixer.gated_pooling_conv import GatedPooling, GatedPoolingConv
from tests.mixer.by_steps import sigmoid


def layer_by_loops(layer: GatedPooling, rows: list[list[float]]) -> list[list[float]]:
    """One window of one layer, one number at a time."""
    shared, bias = layer.everywhere.weight.tolist(), layer.everywhere.bias.tolist()
    place, place_bias = layer.place.tolist(), layer.place_bias.tolist()
    z = []
    for j in range(len(rows) - layer.kernel + 1):
        # A patch holds channel by channel the values of its places.
        patch = [rows[j + i][c] for c in range(len(rows[0])) for i in range(layer.kernel)]
        row = [b + sum(w * e for w, e in zip(ws, patch, strict=True)) for ws, b in zip(shared, bias, strict=True)]
        for h, b in enumerate(place_bias[j]):
            row.append(b + sum(place[j][i][h] * e for i, e in enumerate(patch)))
        z.append([max(e, 0.0) for e in row])
    pooled = []
    for j in range(0, len(z) - 1, 2):
        both = z[j] + z[j + 1]
        row = []
        assert layer.gate is not None
        for h, (ws, b) in enumerate(zip(layer.gate.weight.tolist(), layer.gate.bias.tolist(), strict=True)):
            g = sigmoid(b + sum(w * e for w, e in zip(ws, both, strict=True)))
            row.append(g * z[j][h] + (1 - g) * z[j + 1][h])
        pooled.append(row)
    return pooled + ([z[-1]] if len(z) % 2 else [])


@pytest.mark.oracle("gated_pooling_conv")
@torch.no_grad()
@pytest.mark.parametrize(("window", "kernel", "layers"), [(6, 2, 2), (7, 3, 1), (1, 1, 1)])
def test_equals_loops(window, kernel, layers):
    torch.manual_seed(0)
    m = GatedPoolingConv(3, 4, window=window, kernel=kernel, layers=layers).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    rows = []
    for t in range(8):
        z = [x[s].tolist() if s >= 0 else [0.0] * 3 for s in range(t - window + 1, t + 1)]
        for layer in m.layers:
            z = layer_by_loops(layer, z)
        rows.append(m.o(torch.tensor(z, dtype=torch.float64).flatten()))
    torch.testing.assert_close(m(x[None])[0][0], torch.stack(rows), atol=1e-12, rtol=0)


@pytest.mark.oracle("gated_pooling_conv")
@torch.no_grad()
@pytest.mark.parametrize("open_to", [0, 1])
def test_a_gate_at_one_end_picks_one_neighbour(open_to):
    torch.manual_seed(0)
    layer = GatedPooling(3, 4, places=7, kernel=2).double()
    layer.gate.weight.zero_()
    layer.gate.bias.fill_(1000.0 if open_to == 0 else -1000.0)
    x = torch.randn(2, 5, 7, 3, dtype=torch.float64)
    picked = layer(x)
    layer.gate.bias.fill_(0.0)
    mean = layer(x)
    layer.gate.bias.fill_(-1000.0 if open_to == 0 else 1000.0)
    torch.testing.assert_close(picked, 2 * mean - layer(x), atol=1e-12, rtol=0)
    patches = x.unfold(2, 2, 1).flatten(-2)[:, :, open_to::2]
    torch.testing.assert_close(picked[..., :4], layer.everywhere(patches).relu(), atol=1e-12, rtol=0)


@torch.no_grad()
def test_it_reads_its_window_and_nothing_before():
    torch.manual_seed(0)
    m = GatedPoolingConv(3, 8, window=6, kernel=2).double()
    x = torch.randn(1, 20, 3, dtype=torch.float64)
    changed = x.clone()
    changed[:, 9] = 3.0
    moved = (m(x)[0] - m(changed)[0]).abs().amax(-1)[0]
    assert moved[:9].max() == 0
    assert moved[9:15].min() > 0
    assert moved[15:].max() == 0


def test_windows_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match="window=4 leaves 1 places"):
        GatedPoolingConv(8, 4, window=4, kernel=3)
