"""Which variables a quantity depends on, given others: a coefficient of nearest neighbours, and a search that uses it.

For n draws of Y, Z and X; R_i = how many Y are at most Y_i, L_i = how many are at least Y_i; N(i) = the draw nearest to
i in X, M(i) the one nearest in X and Z:

    T(Y, Z | X) = sum_i (min(R_i, R_M(i)) - min(R_i, R_N(i))) / sum_i (R_i - min(R_i, R_N(i)))
    T(Y, Z)     = sum_i (n min(R_i, R_M(i)) - L_i^2) / sum_i L_i (n - L_i)

About 0 where Y does not depend on Z (given X), about 1 where it is a function of both. The search takes the variable
of the largest T, then the one of the largest T given those taken, and ends where none is above 0.

Papers: "Deep Unlearning via Randomized Conditionally Independent Hessians" (confirmed in the released code); the
coefficient is that of Azadkia and Chatterjee 2021, "A Simple Measure of Conditional Dependence".
Differs from the paper: variables are brought to one scale first, for distances to mean the same in all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Variables whose distances are held at once.
AT_ONCE = 1024


def dependence(y: Tensor, z: Tensor, given: Tensor | None = None) -> Tensor:
    """T for each variable: (p,) float64.

    y (n,) · z (n, p) variables, looked at one by one · given (n, q) variables that are known, or None
    """
    n = len(y)
    at_most = (y[None, :] <= y[:, None]).sum(1).double()
    at_least = (y[None, :] >= y[:, None]).sum(1).double()
    base = torch.zeros(n, n, dtype=torch.float64, device=y.device) if given is None else _squares(given)
    nearest = torch.cat([_nearest(base, part.double()) for part in z.split(AT_ONCE, dim=1)], 1)
    both = torch.minimum(at_most[:, None], at_most[nearest])
    if given is None:
        return (n * both - at_least.square()[:, None]).sum(0) / (at_least * (n - at_least)).sum()
    alone = torch.minimum(at_most, at_most[_nearest(base, torch.zeros_like(y)[:, None].double())[:, 0]])
    return (both - alone[:, None]).sum(0) / (at_most - alone).sum().clamp_min(1e-12)


def chosen(y: Tensor, z: Tensor, most: int) -> list[int]:
    """Numbers of the variables that y depends on, the most telling first; at most so many, and at least one.

    Variables that never change are left out; where all are such, or y never changes, none is chosen.
    """
    spread = z.double().std(0)
    moving = (spread > 0).nonzero()[:, 0]
    if not len(moving) or float(y.double().std()) == 0:
        return []
    z = z.double()[:, moving] / spread[moving]
    taken: list[int] = []
    free = torch.ones(len(moving), dtype=torch.bool, device=z.device)
    while len(taken) < min(most, len(moving)):
        found = dependence(y, z, z[:, ~free] if taken else None).masked_fill(~free, -torch.inf)
        best = int(found.argmax())
        if taken and float(found[best]) <= 0:
            break
        taken.append(best)
        free[best] = False
    return [int(moving[index]) for index in taken]


def _squares(x: Tensor) -> Tensor:
    """Squared distances (n, n) of the rows."""
    return (x.double()[:, None] - x.double()[None]).square().sum(-1)


def _nearest(base: Tensor, z: Tensor) -> Tensor:
    """(n, p): who is nearest to i when variable p is added to the squared distances `base`; never i itself."""
    squares = base[:, :, None] + (z[:, None] - z[None]).square()
    squares.diagonal(dim1=0, dim2=1).fill_(torch.inf)
    return squares.argmin(1)
