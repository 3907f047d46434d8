"""Multigrid: as a solver of Poisson's equation with the textbook's stencils, and as a linear map."""

import pytest
import torch

from layersmith.mixer.multigrid import Multigrid


def poisson(n, levels):
    """A V-cycle for -u'' = f on a periodic line: weighted Jacobi, full weighting, linear interpolation."""
    m = Multigrid(1, [n], levels=levels, smooth=2, periodic=True).double()
    with torch.no_grad():
        for level in range(levels):
            h2 = 4.0**level
            m.apply_a[level].weight.copy_(torch.tensor([-1.0, 2.0, -1.0]) / h2)
            for smooth in [*m.before[2 * level : 2 * level + 2], *m.after[2 * level : 2 * level + 2]]:
                smooth.weight.copy_(torch.tensor([0.0, 1.0, 0.0]) * h2 / 3)  # 2/3 of the inverse of the diagonal 2 / h2
        for restrict, prolong in zip(m.restrict, m.prolong, strict=True):
            restrict.weight.copy_(torch.tensor([0.25, 0.5, 0.25]))
            prolong.weight.copy_(torch.tensor([0.5, 1.0, 0.5, 0.0]))
    return m


@pytest.mark.oracle("multigrid")
@torch.no_grad()
@pytest.mark.parametrize("n", [32, 128, 1024])
def test_one_cycle_reduces_the_residual_alike_on_every_grid(n):
    m = poisson(n, levels=n.bit_length() - 2)
    f = torch.randn(1, 1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = f - f.mean()  # else a periodic problem has no solution
    u = m(f.mT)[0].mT
    left = m.residual(f, u, 0)
    assert left.norm() < 0.1 * f.norm()
    again = left - (m.residual(torch.zeros_like(f), -m(left.mT)[0].mT, 0))
    assert again.norm() < 0.15 * left.norm()


@pytest.mark.oracle("multigrid")
@torch.no_grad()
def test_without_levels_it_is_a_few_smoothing_steps():
    torch.manual_seed(0)
    m, x = Multigrid(2, [7], levels=1, smooth=1).double(), torch.randn(1, 7, 2, dtype=torch.float64)

    def over(conv, field):
        out = torch.zeros_like(field)
        for t in range(7):
            for tap in range(3):
                if 0 <= t + tap - 1 < 7:
                    out[t] += conv.weight[:, :, tap] @ field[t + tap - 1]
        return out

    u = over(m.before[0], x[0])
    u = u + over(m.after[0], x[0] - over(m.apply_a[0], u))
    torch.testing.assert_close(m(x)[0][0], u, atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("grid", [[24], [4, 6]])
def test_it_is_linear_and_its_weights_fit_any_grid(grid):
    torch.manual_seed(0)
    m = Multigrid(3, grid, levels=2).double()
    a, b = torch.randn(2, 1, 24, 3, dtype=torch.float64)
    torch.testing.assert_close(m(2 * a - b)[0], 2 * m(a)[0] - m(b)[0], atol=1e-12, rtol=0)
    Multigrid(3, [2 * n + 1 for n in grid], levels=2).load_state_dict(m.state_dict())


@pytest.mark.parametrize(("grid", "levels", "word"), [([2, 2, 2], 1, "axes"), ([4], 4, "levels=4")])
def test_grids_that_cannot_be_halved_are_refused(grid, levels, word):
    with pytest.raises(ValueError, match=word):
        Multigrid(3, grid, levels=levels)
