"""The Triton kernels against the references in float64. Run as a program, on the CPU, in Triton's own interpreter:

    TRITON_INTERPRET=1 python tests/kernels/triton_cases.py

`test_triton.py` does so in a process of its own, because Triton reads the variable once, when it is imported.
"""

from __future__ import annotations

import torch

from layersmith.ffn.poly_norm import PolyNorm
from layersmith.ffn.shared.rational import Rational
from layersmith.kernels.poly import triton_poly_norm
from layersmith.kernels.rational import triton_rational

#: bfloat16 keeps 8 significant bits of values and of the gradient of x; sums are kept in 32 bits and rounded once.
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 1e-2}


def rational(device: str, dtype: torch.dtype, shape: tuple[int, ...], groups: int, m: int, n: int) -> None:
    torch.manual_seed(0)
    part = Rational(shape[-1], groups, m=m, n=n).double()
    torch.nn.init.normal_(part.a, std=0.3)
    torch.nn.init.normal_(part.b, std=0.3)
    if n == 1:
        torch.nn.init.zeros_(part.b)  # Q = 0: the slope of |Q| is 1
    part.to(dtype).double()
    x, grad = (torch.randn(shape, dtype=dtype) for _ in range(2))
    given = [t.to(device) for t in (grad, x, part.a.detach().to(dtype), part.b.detach().to(dtype))]
    found = [triton_rational.forward(*given[1:]), *triton_rational.backward(*given)]
    wide = x.double().requires_grad_()
    y = part(wide)
    compare(found, [y, *torch.autograd.grad(y, (wide, part.a, part.b), grad.double())], dtype)
    again = triton_rational.backward(*given)
    assert all(torch.equal(a, b) for a, b in zip(found[1:], again, strict=True)), "equal runs must give equal bits"


def poly_norm(device: str, dtype: torch.dtype, shape: tuple[int, ...], order: int) -> None:
    torch.manual_seed(0)
    part = PolyNorm(2, shape[-1], order=order)
    torch.nn.init.normal_(part.a)
    part.to(dtype).double()
    h, grad = (torch.randn(shape, dtype=dtype) for _ in range(2))
    given = [t.to(device) for t in (grad, h, part.a.detach().to(dtype))]
    found = [triton_poly_norm.forward(*given[1:], part.eps), *triton_poly_norm.backward(*given, part.eps)]
    wide = h.double().requires_grad_()
    y = part.activation(wide)
    compare(found, [y, *torch.autograd.grad(y, (wide, part.a), grad.double())], dtype)


def compare(found: list[torch.Tensor], exact: list[torch.Tensor], dtype: torch.dtype) -> None:
    for got, right in zip(found, exact, strict=True):
        assert got.dtype == dtype
        assert got.shape == right.shape
        error = (got.cpu().double() - right).norm() / right.norm().clamp_min(1e-30)
        assert error < BOUNDS[dtype], f"relative error {error:.1e}"


def every_case(device: str) -> int:
    """More than one program, more than one tile, and tiles that do not fit."""
    cases = 0
    for dtype in BOUNDS:
        for shape, groups, m, n in (
            ((2, 3, 48), 4, 5, 4),
            ((9, 21), 3, 3, 2),
            ((3, 8), 2, 1, 1),
            ((0, 8), 2, 5, 4),
            ((16,), 1, 2, 5),
        ):
            rational(device, dtype, shape, groups, m, n)
            cases += 1
        for shape, order in (((2, 2, 48), 3), ((3, 21), 1), ((0, 8), 3), ((16,), 5)):
            poly_norm(device, dtype, shape, order)
            cases += 1
    return cases


def large_cases(device: str) -> int:
    """Sizes that the interpreter would take minutes for."""
    for dtype in BOUNDS:
        rational(device, dtype, (3, 700, 3072), 8, 5, 4)
        rational(device, dtype, (1000, 4000), 1, 10, 10)
        poly_norm(device, dtype, (3, 700, 3072), 3)
        poly_norm(device, dtype, (100, 20001), 5)
    return 4 * len(BOUNDS)


if __name__ == "__main__":
    triton_rational.RUN, triton_rational.TILE, triton_rational.BLOCK, triton_poly_norm.TILE = 64, 32, 4, 32
    print(f"{every_case('cpu')} cases")  # noqa: T201 (a program's answer)
