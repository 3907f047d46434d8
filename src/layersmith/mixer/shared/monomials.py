"""Features whose product is a power series of a product of three vectors, cut off.

    sum_{k <= g} (scale * sum_c a_c b_c c_c)^k / k!  =  sum_m w_m a^m b^m c^m

over all monomials m of degree at most g, a^m = prod_c a_c^{m_c}, with w_m = scale^{|m|} / prod_c m_c!. So an
exponential of a product of three vectors is nearly a sum of products of three numbers, each of which knows one of them
alone. There are (d + g choose g) monomials of d variables. With g even the series is positive everywhere.

Shapes: x (..., d) -> (..., M).
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement
from math import factorial, prod

import torch
from torch import Tensor


def monomial_table(d: int, degree: int, scale: float) -> tuple[Tensor, list[float]]:
    """(M, degree) int64 the variables of each monomial, d standing for a factor of 1; and (M,) their weights w."""
    chosen = [c for k in range(degree + 1) for c in combinations_with_replacement(range(d), k)]
    variables = [[*c, *[d] * (degree - len(c))] for c in chosen]
    weights = [scale ** len(c) / prod(factorial(n) for n in Counter(c).values()) for c in chosen]
    return torch.tensor(variables), weights


def monomials(x: Tensor, variables: Tensor) -> Tensor:
    """x (..., d) -> (..., M), the value of each monomial."""
    with_one = torch.cat((x, torch.ones_like(x[..., :1])), dim=-1)
    return with_one[..., variables].prod(-1)
