"""Multi-axis gMLP: its two ways of mixing as dense matrices over all tokens, with the zeros they must have."""

import pytest
import torch
import torch.nn.functional as F

from layersmith.mixer.multi_axis_gmlp import MultiAxisGMLP


def dense(places, block, height, width, across):
    """(HW, HW): entry (t, s) is the weight between two places of one block, or of one spot in all blocks."""
    cell_h, cell_w = height // block, width // block
    matrix = torch.zeros(height * width, height * width, dtype=torch.float64)
    for t in range(height * width):
        for s in range(height * width):
            (i, j), (k, m) = divmod(t, width), divmod(s, width)
            if across:  # the grid is cut into block x block cells; same spot in the cell
                if (i % cell_h, j % cell_w) == (k % cell_h, m % cell_w):
                    to, source = (i // cell_h) * block + j // cell_w, (k // cell_h) * block + m // cell_w
                    matrix[t, s] = places.weight[to, source]
            elif (i // block, j // block) == (k // block, m // block):
                to, source = (i % block) * block + j % block, (k % block) * block + m % block
                matrix[t, s] = places.weight[to, source]
    return matrix


def half(m, gated, z, matrix, bias):
    a, b = F.gelu(gated.up(gated.norm(z))).chunk(2, -1)
    return z + gated.down(a * (matrix @ gated.gate_norm(b) + bias[:, None] + 1))


@pytest.mark.oracle("multi_axis_gmlp")
@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(4, 6), (2, 2), (6, 4)])
def test_by_dense_matrices(height, width):
    torch.manual_seed(0)
    m = MultiAxisGMLP(3, [height, width], block=2).double()
    for parameter in m.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, height * width, 3, dtype=torch.float64)
    u, v = F.gelu(m.into(x[0])).chunk(2, -1)
    t = torch.arange(height * width)
    i, j = t // width, t % width
    across_bias = m.across.places.bias[(i // (height // 2)) * 2 + j // (width // 2)]
    within_bias = m.within.places.bias[(i % 2) * 2 + j % 2]
    u = half(m, m.across, u, dense(m.across.places, 2, height, width, True), across_bias)
    v = half(m, m.within, v, dense(m.within.places, 2, height, width, False), within_bias)
    torch.testing.assert_close(m(x)[0][0], m.out(torch.cat((u, v), -1)), atol=1e-10, rtol=0)


@pytest.mark.oracle("multi_axis_gmlp")
def test_weights_do_not_depend_on_the_grid():
    small, large = MultiAxisGMLP(3, [2, 2], block=2), MultiAxisGMLP(3, [8, 4], block=2)
    large.load_state_dict(small.state_dict())
    with pytest.raises(ValueError, match="block=3 does not divide"):
        MultiAxisGMLP(3, [6, 8], block=3)
