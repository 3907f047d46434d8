"""How fast deep stacks of 1-Lipschitz layers forget their input at the start, whatever the size of the first weights.

Paper: "1-Lipschitz Network Initialization for Certifiably Robust Classification Applications: A Decay Problem": the
variance of an almost-orthogonal layer's weights depends on its sizes alone, and deep stacks decay to zero. Beside the
part `almost_orthogonal` with ReLU stands the residual layer of the same bound, x - 2 W T^-1 relu(W^T x), T = diag(sum_j
|W^T W|_ij) (its free scales are 1, as they start; from memory).

    python benchmarks/claims/lipschitz_decay.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.linear.almost_orthogonal import AlmostOrthogonal

WIDTH, ROWS, SEEDS = 64, 256, 5
STDS = (0.1, 1.0, 10.0)
DEPTHS = (1, 5, 10, 20, 50)


def orthogonal(std: float) -> Callable[[Tensor], Tensor]:
    part = AlmostOrthogonal(WIDTH, WIDTH).double()
    part.weight.normal_(std=std)
    return lambda x: part(x).relu()


def residual(std: float) -> Callable[[Tensor], Tensor]:
    w = std * torch.randn(WIDTH, WIDTH, dtype=torch.float64)
    t = (w.T @ w).abs().sum(-1)
    return lambda x: x - 2 * ((x @ w).relu() / t) @ w.T


@torch.no_grad()
def variances(make: Callable[[float], Callable[[Tensor], Tensor]], std: float, seed: int) -> list[float]:
    """Of the outputs of all rows and channels, behind each layer."""
    torch.manual_seed(seed)
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    found = []
    for _ in range(max(DEPTHS)):
        x = make(std)(x)
        found.append(float(x.var()))
    return found


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name, make in (("almost_orthogonal + relu", orthogonal), ("residual", residual)):
        for std in STDS:
            runs = torch.tensor([variances(make, std, seed) for seed in range(SEEDS)], dtype=torch.float64)
            middle = runs.log().mean(0).exp()
            rows += [{"layer": name, "std": std, "depth": d, "variance": float(middle[d - 1])} for d in DEPTHS]
            print(name, std, [f"{float(middle[d - 1]):.1e}" for d in DEPTHS], flush=True)
    at = {(row["layer"], row["std"], row["depth"]): row["variance"] for row in rows}
    names = ("almost_orthogonal + relu", "residual")
    apart = max(abs(at[name, std, d] / at[name, 1.0, d] - 1) for name in names for std in STDS for d in DEPTHS)
    gone = at[names[0], 1.0, 20] < 1e-9 and at[names[1], 1.0, 50] < 1e-3
    save_claim(
        "lipschitz_decay",
        "almost_orthogonal",
        "1-lipschitz-network-initialization-certifiably",
        "Outputs of deep stacks of 1-Lipschitz layers decay to zero at the start, whatever the variance of the weights",
        "held" if gone and apart < 1e-6 else "partly" if gone else "did not hold",
        f"Width {WIDTH}, inputs of variance 1, geometric mean of {SEEDS} seeds: behind 20 almost-orthogonal layers "
        f"with ReLU the variance is {at[names[0], 1.0, 20]:.0e}, behind 50 residual ones {at[names[1], 1.0, 50]:.0e}; "
        f"weights started 10 times smaller or larger change this by a share of at most {apart:.0e}.",
        rows,
    )


if __name__ == "__main__":
    main()
