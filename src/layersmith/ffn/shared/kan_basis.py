"""Univariate bases: features of each channel by itself, whose linear combinations are the edge functions of a KAN.

    phi(x) = sum_k c_k B_k(x)

Shapes: every basis maps x (..., C) -> features (..., C, K), K = `size`; all channels share one basis on [low, high].

    b_spline    B-splines of a degree on a uniform grid of K - degree cells (Cox-de Boor recursion)
    truncated   1, u, ..., u^degree and (u - t_j)_+^degree: the same splines in another basis (`TruncatedPower`)
    chebyshev   T_0, ..., T_(K-1) at tanh(u)
    fourier     cos(pi g u), sin(pi g u) for g = 1, ..., K / 2
    rbf         Gaussians exp(-((x - m_k) / h)^2) at K even places a distance h apart
    relu        (relu(x - a_k) relu(b_k - x))^2 with learned ends, highest value 1 (`ActivationProduct`)

u = (2 x - low - high) / (high - low) is x in units in which [low, high] is [-1, 1].

What happens outside [low, high]: splines in either basis go on as the straight line through their end, so that they
neither vanish nor grow like x^degree; tanh holds the Chebyshev polynomials within [-1, 1]; sines repeat; Gaussians and
ReLU products fade to 0. All of it is finite. Values are computed in 32 bits for 16-bit inputs and left in that width.

Papers: Liu et al. 2024, "KAN: Kolmogorov-Arnold Networks", arXiv 2404.19756 (B-splines). Confirmed in
released code: B-spline recursion and grid (Blealtan/efficient-kan), Chebyshev at tanh, Fourier and Gaussian features
(hoangthangta/All-KAN: cheby_kan, fourier_kan, fast_kan), ReLU product and its constant (quiqi/relu_kan).
Differs from the papers: splines end in straight lines; in efficient-kan they drop to 0 within `degree` cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from layersmith.errors import suggest
from layersmith.ffn.shared.activations import activation

#: Features of a pair of activations, p of x - a and q of b - x.
COMBINATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "quad1": lambda p, q: (p * q).square(),
    "quad2": lambda p, q: p * q + p.square() + q.square(),
    "sum": lambda p, q: p + q,
    "prod": lambda p, q: p * q,
    "sum_prod": lambda p, q: p + q + p * q,
    "cubic1": lambda p, q: (p + q) * (p.square() + q.square()),
    "cubic2": lambda p, q: (p * q) ** 3,
}


def widened(x: Tensor) -> Tensor:
    """x in at least 32 bits: powers and differences of nearby numbers lose everything in 16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Basis(nn.Module):
    """Common part of all bases: K, the interval, and x in the interval's units."""

    def __init__(self, size: int, low: float, high: float, least: int = 1):
        super().__init__()
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise ValueError(f"{type(self).__name__}: size must be an integer of at least {least}, not {size!r}.")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{type(self).__name__}: low={low!r} must be a number below high={high!r}.")
        self.size, self.low, self.high = size, float(low), float(high)

    def units(self, x: Tensor) -> Tensor:
        return (widened(x) - (self.low + self.high) / 2) * (2 / (self.high - self.low))

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class BSpline(Basis):
    """B-splines that sum to 1 everywhere. degree >= 1; the grid has size - degree equal cells."""

    def __init__(self, size: int, low: float, high: float, degree: int = 3):
        if degree < 1:
            raise ValueError(f"BSpline: degree must be at least 1, not {degree!r}.")
        super().__init__(size, low, high, least=degree + 1)
        self.degree, self.cells = degree, size - degree

    def forward(self, x: Tensor) -> Tensor:
        u = (self.units(x) + 1) * (self.cells / 2)  # knots are the integers; the grid is [0, cells]
        inside = u.clamp(0, self.cells)
        knots = torch.arange(-self.degree, self.cells + self.degree, device=x.device)
        # The last cell is closed on the right, so that the line beyond it continues the polynomial within it.
        cell = inside.detach().floor().clamp(max=self.cells - 1)
        lower = values = (cell[..., None] == knots).to(u.dtype)
        for k in range(1, self.degree + 1):
            past = (inside[..., None] - knots)[..., :-k]
            lower = values
            values = (past * lower[..., :-1] + (k + 1 - past) * lower[..., 1:]) / k
        return values + (u - inside)[..., None] * (lower[..., :-1] - lower[..., 1:])


class TruncatedPower(Basis):
    """The polynomials up to a degree and one truncated power for each of the size - degree - 1 inner knots.

    channels  None: knots fixed at even places. C: each of C channels learns where its knots are, always in order.
    """

    def __init__(self, size: int, low: float, high: float, degree: int = 3, channels: int | None = None):
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
            raise ValueError(f"TruncatedPower: degree must be an integer of at least 1, not {degree!r}.")
        super().__init__(size, low, high, least=degree + 2)
        self.degree, self.n_knots = degree, size - degree - 1
        if channels is not None:
            self.raw_gaps = nn.Parameter(torch.zeros(channels, self.n_knots + 1))

    def knots(self, x: Tensor) -> Tensor:
        """(n_knots) or (channels, n_knots), in (-1, 1), in the width of x."""
        if hasattr(self, "raw_gaps"):
            return 2 * self.raw_gaps.to(x.dtype).softmax(-1).cumsum(-1)[..., :-1] - 1
        return torch.linspace(-1, 1, self.n_knots + 2, device=x.device, dtype=x.dtype)[1:-1]

    def forward(self, x: Tensor) -> Tensor:
        u = self.units(x)
        inside = u.clamp(-1, 1)
        powers = [torch.ones_like(u)]
        for _ in range(self.degree):
            powers.append(powers[-1] * inside)
        past = (inside[..., None] - self.knots(u)).relu()
        below = past ** (self.degree - 1) if self.degree > 1 else (past > 0).to(u.dtype)
        values = torch.cat([torch.stack(powers, -1), below * past], -1)
        slopes = [torch.zeros_like(u)] + [i * powers[i - 1] for i in range(1, self.degree + 1)]
        slope = torch.cat([torch.stack(slopes, -1), self.degree * below], -1)
        return values + (u - inside)[..., None] * slope


class Chebyshev(Basis):
    """Chebyshev polynomials of the first kind, by their recursion, at tanh(u)."""

    def __init__(self, size: int, low: float, high: float):
        super().__init__(size, low, high, least=2)

    def forward(self, x: Tensor) -> Tensor:
        t = self.units(x).tanh()
        values = [torch.ones_like(t), t]
        while len(values) < self.size:
            values.append(2 * t * values[-1] - values[-2])
        return torch.stack(values, -1)


class Fourier(Basis):
    """Cosines, then sines, whose common period is high - low."""

    def __init__(self, size: int, low: float, high: float):
        super().__init__(size, low, high, least=2)
        if size % 2:
            raise ValueError(f"Fourier: size must be even, half cosines and half sines, not {size}.")

    def forward(self, x: Tensor) -> Tensor:
        angle = (math.pi * self.units(x))[..., None] * torch.arange(1, self.size // 2 + 1, device=x.device)
        return torch.cat([angle.cos(), angle.sin()], -1)


class GaussianRBF(Basis):
    """Gaussians at even places from low to high, as wide as they are apart."""

    def __init__(self, size: int, low: float, high: float):
        super().__init__(size, low, high, least=2)

    def forward(self, x: Tensor) -> Tensor:
        u = (self.units(x) + 1) * ((self.size - 1) / 2)  # the centres are 0, ..., size - 1
        return (-(u[..., None] - torch.arange(self.size, device=x.device)).square()).exp()


class ActivationProduct(Basis):
    """A function of act(x - a_k) and act(b_k - x) for learned ends a_k, b_k shared by all channels.

    They start as the supports of B-splines of degree `order`: order + 1 cells long, one cell apart.
    scaled  multiply by 16 / (b - a)^4 of the start, which makes the highest value of ReLU's "quad1" 1
    """

    def __init__(
        self, size: int, low: float, high: float, order: int = 3, act: str = "relu", combine: str = "quad1",
        scaled: bool = True,
    ):  # fmt: skip
        if isinstance(order, bool) or not isinstance(order, int) or order < 0:
            raise ValueError(f"ActivationProduct: order must be an integer of at least 0, not {order!r}.")
        super().__init__(size, low, high, least=order + 1)
        if combine not in COMBINATIONS:
            raise ValueError(f"ActivationProduct: combine={combine!r}. {suggest(combine, list(COMBINATIONS))}")
        self.act, self.combine = activation(act), COMBINATIONS[combine]
        cell = (self.high - self.low) / (size - order)
        start = self.low + cell * torch.arange(-order, size - order)
        self.start, self.end = nn.Parameter(start), nn.Parameter(start + (order + 1) * cell)
        self.scale = 16 / ((order + 1) * cell) ** 4 if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        wide = widened(x)[..., None]
        return self.scale * self.combine(self.act(wide - self.start), self.act(self.end - wide))


BASES: dict[str, type[Basis]] = {
    "b_spline": BSpline,
    "chebyshev": Chebyshev,
    "fourier": Fourier,
    "rbf": GaussianRBF,
    "relu": ActivationProduct,
}


def make_basis(name: str, size: int, low: float, high: float) -> Basis:
    """The named basis (cubic where it has a degree); a ValueError that names the argument otherwise."""
    if name not in BASES:
        raise ValueError(f"Unknown basis {name!r}. {suggest(str(name), list(BASES))}")
    return BASES[name](size, low, high)


@torch.no_grad()
def fit(basis: Basis, function: Callable[[Tensor], Tensor], points: int = 1001) -> Tensor:
    """(K): the least-squares coefficients for a function on [low, high], of least norm where several fit equally."""
    x = torch.linspace(basis.low, basis.high, points, dtype=torch.float64, device="cpu")  # where this solver is
    return torch.linalg.lstsq(basis(x[:, None])[:, 0].double(), function(x)[:, None], driver="gelsd").solution[:, 0]
