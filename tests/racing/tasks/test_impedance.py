"""Impedance: currents balance by loops, exact bodies, what a body without discs tells, and who reads what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.impedance import (
    INSIDE,
    Impedance,
    bodies,
    currents,
    examples,
    extended,
    patterns,
    voltages,
)

from .small import draw


def test_what_flows_into_a_point_flows_out_of_it_by_loops() -> None:
    side = 6
    s = 1 + 3 * bodies(torch.Generator().manual_seed(1), 2, side)
    edge = torch.randn(2, 3, 4, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for body, u_of, f_of in zip(s.tolist(), voltages(s, edge).tolist(), edge.tolist(), strict=True):
        for u, f in zip(u_of, f_of, strict=True):
            for i in range(side):
                for j in range(side):
                    here, out = body[i][j], 0.0
                    ends = {(-1, j): f[0][j], (side, j): f[1][j], (i, -1): f[2][i], (i, side): f[3][i]}
                    for r, c in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                        if (r, c) in ends:
                            out += here * (u[i][j] - ends[r, c])
                        else:
                            out += 2 * here * body[r][c] / (here + body[r][c]) * (u[i][j] - u[r][c])
                    assert out == pytest.approx(0, abs=1e-10)


def test_a_body_without_discs_carries_a_slope_exactly() -> None:
    side = 7
    p = np.arange(1, side + 1) / (side + 1)
    edge = torch.tensor(np.stack([p, p, 0 * p, 0 * p + 1]))[None]  # f = x
    body = torch.ones(1, side, side).double()
    np.testing.assert_allclose(voltages(body, edge[None])[0, 0].numpy(), np.tile(p, (side, 1)), atol=1e-12)
    flow = currents(body, edge)[0, 0].numpy()
    np.testing.assert_allclose(flow[:2], 0, atol=1e-12)
    np.testing.assert_allclose(flow[2:], [[-1 / (side + 1)] * side, [1 / (side + 1)] * side], atol=1e-12)


def test_as_much_comes_out_as_goes_in_and_a_better_conductor_takes_more() -> None:
    s = 1 + (INSIDE - 1) * bodies(torch.Generator().manual_seed(0), 20, 8)
    edge = patterns(8, 2)
    found = currents(s, edge)
    assert float(found.flatten(2).sum(-1).abs().max()) < 1e-10
    power = (found * edge).flatten(2).sum(-1)
    assert (power > (currents(torch.ones(1, 8, 8).double(), edge) * edge).flatten(2).sum(-1)).all()


def test_patterns_are_waves_around_the_middle() -> None:
    f = patterns(9, 2)
    assert f.shape == (4, 4, 9)
    p = np.arange(1, 10) / 10
    np.testing.assert_allclose(f[1, 3].numpy(), np.cos(2 * np.arctan2(p - 0.5, 0.5)), atol=1e-12)
    np.testing.assert_allclose(f[2, 0].numpy(), np.sin(np.arctan2(-0.5, p - 0.5)), atol=1e-12)


def test_extensions_are_harmonic_and_have_the_edge_s_values() -> None:
    edge = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = extended(edge)
    assert found.shape == (2, 3, 5, 5)
    full = torch.zeros(2, 3, 7, 7).double()
    full[..., 1:-1, 1:-1] = found
    full[..., 0, 1:-1], full[..., -1, 1:-1] = edge[..., 0, :], edge[..., 1, :]
    full[..., 1:-1, 0], full[..., 1:-1, -1] = edge[..., 2, :], edge[..., 3, :]
    around = full[..., 2:, 1:-1] + full[..., :-2, 1:-1] + full[..., 1:-1, 2:] + full[..., 1:-1, :-2]
    torch.testing.assert_close(found, around / 4)


def test_discs_are_one_or_two_and_in_their_bounds() -> None:
    found = bodies(torch.Generator().manual_seed(0), 2000, 24)
    area = found.mean((1, 2)) * (24 / 25) ** 2
    assert 0.05 < float(area.min()) < float(area.max()) < 2 * np.pi * 0.25**2 + 0.02
    assert float(area.mean()) > 1.2 * np.pi * 0.2**2, "half of them have two"


def test_an_example_is_a_body_and_what_its_edge_tells() -> None:
    task = Impedance(side=6, n_patterns=1, n_train=40)
    solved = examples(6, 1, 0.0, 40, 0)
    edge = patterns(6, 1)
    empty = currents(torch.ones(1, 6, 6).double(), edge)
    ratios = []
    for row, target in zip(solved.parts["train"].inputs, solved.parts["train"].targets, strict=True):
        body = 1 + 3 * target.double().reshape(1, 6, 6)
        want = extended(currents(body, edge) - empty)[0]
        ratios.append(row[:, 2:].double().T.reshape(2, 6, 6) / want)
        assert row[8, :2].tolist() == pytest.approx([3 / 7, 2 / 7])
    scale = torch.stack(ratios).flatten()
    torch.testing.assert_close(scale, scale.median().expand_as(scale), rtol=1e-2, atol=0)
    assert draw(task, 3).inputs.shape == (3, 36, 4)
    noisy = examples(6, 1, 1.0, 40, 0).parts["train"]
    assert not noisy.inputs.equal(solved.parts["train"].inputs)
    assert noisy.targets.equal(solved.parts["train"].targets)


def test_a_linear_map_finds_more_than_the_mean() -> None:
    found = Impedance(side=6, n_train=200).yardsticks()
    assert found["oracle"] == 0 < found["linear"] < found["mean"] < found["random"] == 1
