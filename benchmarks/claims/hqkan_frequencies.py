"""DARUAN against B-splines and Fourier terms on one edge: the error of a fit of sin(20 x) for the parameters it takes.

python benchmarks/claims/hqkan_frequencies.py        about a minute
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.ffn.shared.daruan import Daruan
from layersmith.ffn.shared.kan_basis import make_basis

GROUPS, CIRCUITS, STEPS = 3, 16, 1000


def circuits(x: Tensor, y: Tensor, reps: int, doubling: bool) -> tuple[int, list[float]]:
    """(parameters, relative errors) of scale * phi(x) + bias: the best of CIRCUITS starts in each group."""
    torch.manual_seed(0)
    edge = Daruan(1, GROUPS * CIRCUITS, reps)
    scale, bias = torch.ones(edge.size, requires_grad=True), torch.zeros(edge.size, requires_grad=True)
    with torch.no_grad():
        edge.angles.normal_()
        if doubling:
            edge.weights.copy_(2.0 ** torch.arange(reps).expand_as(edge.weights))
    optimizer = torch.optim.Adam([*edge.parameters(), scale, bias], lr=0.03)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - step / STEPS)
        loss = (scale * edge(x[:, None])[:, 0] + bias - y[:, None]).square().mean(0)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return 3 * reps + 4, (loss.view(GROUPS, CIRCUITS).amin(1) / y.square().mean()).tolist()


def least_squares(x: Tensor, y: Tensor, name: str, size: int) -> tuple[int, list[float]]:
    """(coefficients, relative error) of a basis on [-1, 1] plus a constant; a closed form, so one number."""
    columns = torch.cat([make_basis(name, size, -1.0, 1.0)(x[:, None])[:, 0], torch.ones(len(x), 1)], 1).double()
    found = torch.linalg.lstsq(columns, y.double()[:, None], driver="gelsd").solution
    return size + 1, [((columns @ found)[:, 0] - y).square().mean().item() / y.square().mean().item()]


def main() -> None:
    x = torch.linspace(-1, 1, 400)
    y = (20 * x).sin()
    rows = []
    for reps in (3, 4):
        for doubling in (False, True):
            start = "w = 2^l" if doubling else "w = 1"
            rows.append((f"DARUAN, {reps} repetitions, start {start}", *circuits(x, y, reps, doubling)))
    for name, sizes in (("b_spline", (8, 16, 24, 32)), ("fourier", (16, 20, 24, 32))):
        rows += [(f"{name}, {size} functions", *least_squares(x, y, name, size)) for size in sizes]
    for row in rows:
        print(row)
    least = {}
    for kind in ("w = 1", "w = 2^l", "b_spline", "fourier"):
        fits = [
            parameters for what, parameters, errors in rows if kind in what and sorted(errors)[len(errors) // 2] < 0.01
        ]
        least[kind] = min(fits, default=None)
    rivals = min(size for size in (least["b_spline"], least["fourier"]) if size is not None)
    wins = [size is not None and size < rivals for size in (least["w = 1"], least["w = 2^l"])]
    save_claim(
        "hqkan_frequencies",
        part="hqkan",
        paper="P086",
        claim="a re-uploading circuit with trained input weights needs fewer parameters than Fourier or B-spline edges",
        verdict="held" if all(wins) else "partly" if any(wins) else "did not hold",
        measured="parameters for a relative squared error below 1% on sin(20 x), x in [-1, 1], of the sizes tried "
        f"(None: not reached): circuits that start with w = 1 {least['w = 1']}, with w = 2^l {least['w = 2^l']}, "
        "B-splines "
        f"{least['b_spline']}, Fourier terms of period 2 {least['fourier']}; circuits are trained, the median of "
        f"{GROUPS} groups of {CIRCUITS} starts, the best start counting; the bases are fitted by least squares",
        rows=[{"edge": what, "parameters": parameters, "errors": errors} for what, parameters, errors in rows],
    )


if __name__ == "__main__":
    main()
