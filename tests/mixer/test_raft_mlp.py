"""RaftMLP against loops over lines and channels, and its size against the formula."""

import pytest
import torch
import torch.nn.functional as F

from layersmith.mixer.raft_mlp import RaftMLP


def raft(**config):
    torch.manual_seed(0)
    m = RaftMLP(**{"d_model": 6, "grid": [3, 4], "raft": 2, **config}).double()
    for parameter in m.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return m


def mlp(up, down, v):
    return down(F.gelu(up(v)))


def by_loops(m, field):
    """One field (H, W, D): first every column, then every row, one channel of each group at a time."""
    height, width, d = field.shape
    o = d // m.raft
    vertical, horizontal = torch.zeros_like(field), torch.zeros_like(field)
    for j in range(width):
        for c in range(o):
            read = torch.stack([field[i, j, g * o + c] for g in range(m.raft) for i in range(height)])
            for n, value in enumerate(mlp(m.column_up, m.column_down, read)):
                vertical[n % height, j, n // height * o + c] = value
    normed = m.norm(field + vertical)
    for i in range(height):
        for c in range(o):
            read = torch.stack([normed[i, j, g * o + c] for g in range(m.raft) for j in range(width)])
            for n, value in enumerate(mlp(m.row_up, m.row_down, read)):
                horizontal[i, n % width, n // width * o + c] = value
    return vertical + horizontal


@pytest.mark.oracle("raft_mlp")
@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 6])
def test_by_loops(size):
    m, x = raft(raft=size), torch.randn(2, 12, 6, dtype=torch.float64)
    want = torch.stack([by_loops(m, row.reshape(3, 4, 6)).reshape(12, 6) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("raft_mlp")
@torch.no_grad()
def test_without_a_raft_channels_stay_apart():
    """Until the norm: with rows that add nothing, moving one channel moves that channel alone."""
    m, x = raft(raft=1), torch.randn(1, 12, 6, dtype=torch.float64)
    m.row_down.weight.zero_()
    moved = x.clone()
    moved[..., 2] += 1
    changed = (m(moved)[0] - m(x)[0]).abs().amax((0, 1)) > 1e-12
    assert changed.tolist() == [False, False, True, False, False, False]


def test_size_is_that_of_the_formula():
    m = RaftMLP(8, [5, 7], raft=2, expansion=3)
    lines = [2 * n for n in (5, 7)]
    assert sum(p.numel() for p in m.parameters()) == sum(2 * 3 * n * n + 4 * n for n in lines) + 2 * 8
    with pytest.raises(ValueError, match="raft=3 does not divide d_model=8"):
        RaftMLP(8, [5, 7], raft=3)
