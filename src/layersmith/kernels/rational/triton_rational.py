"""The rational activation P(x) / (1 + |Q_g(x)|) in Triton: see `ffn.rational`; called through `kernels.rational`.

One program works through a run of rows of one group of channels, its coefficients in registers. Backward, it adds what
its elements give to the gradients of a and b up in fast memory, and writes one number for each coefficient; a second
kernel adds those of all programs in 64 bits, always in the same order.

Paper: Raffel & Chen 2025, "FlashKAT: Understanding and Addressing Performance Bottlenecks in the Kolmogorov-Arnold
Transformer", arXiv 2505.13813 (P046). Confirmed in its abstract and in the authors' code (OSU-STARLAB/FlashKAT): each
block adds the coefficients' gradients of its elements up for itself, and then to memory once for each coefficient.
Differs from the paper: their blocks use atomic additions for that, whose order, and so the last bits of the result,
may change from run to run; the second stage here is deterministic. The denominator is that of `ffn.rational`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# What a loop's length depends on is a constant of compilation: it is the same for all calls of one layer, and Triton
# 3.6's interpreter cannot count up to a tensor with numpy 2.4 (triton-lang/triton#9171).

#: Elements for one program, the ones of these held at once, and the warps that hold them.
RUN, TILE, WARPS = 16384, 2048, 4
#: Runs that a group is cut into at most, and numbers that are added up at once.
RUNS, BLOCK = 1024, 8192


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _forward(  # type: ignore[no-untyped-def]
    x_at,
    a_at,
    b_at,
    y_at,
    rows,
    channels,
    WIDTH: tl.constexpr,
    PER: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    TILE: tl.constexpr,
):
    first, group = tl.program_id(0).to(tl.int64) * PER, tl.program_id(1)
    for start in range(0, PER * WIDTH, TILE):
        element = start + tl.arange(0, TILE)
        row = first + element // WIDTH
        inside = (element < PER * WIDTH) & (row < rows)
        at = row * channels + group * WIDTH + element % WIDTH
        x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
        p = tl.zeros([TILE], tl.float32) + tl.load(a_at + M).to(tl.float32)
        for k in tl.static_range(M):
            p = p * x + tl.load(a_at + (M - 1 - k)).to(tl.float32)
        q = tl.zeros([TILE], tl.float32)
        for k in tl.static_range(N):
            q = (q + tl.load(b_at + group * N + (N - 1 - k)).to(tl.float32)) * x
        tl.store(y_at + at, p / (1 + tl.where(q >= 0, q, -q)), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _backward(  # type: ignore[no-untyped-def]
    grad_at,
    x_at,
    a_at,
    b_at,
    dx_at,
    sums_at,
    rows,
    channels,
    WIDTH: tl.constexpr,
    PER: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    TILE: tl.constexpr,
    PLACES: tl.constexpr,
):
    first, group = tl.program_id(0).to(tl.int64) * PER, tl.program_id(1)
    place = tl.arange(0, PLACES)
    sums = tl.zeros([PLACES], tl.float32)  # M + 1 for a, then N for b
    for start in range(0, PER * WIDTH, TILE):
        element = start + tl.arange(0, TILE)
        row = first + element // WIDTH
        inside = (element < PER * WIDTH) & (row < rows)
        at = row * channels + group * WIDTH + element % WIDTH
        x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_at + at, mask=inside, other=0.0).to(tl.float32)
        dp = tl.zeros([TILE], tl.float32)
        p = tl.zeros([TILE], tl.float32) + tl.load(a_at + M).to(tl.float32)
        for k in tl.static_range(M):
            dp = dp * x + p
            p = p * x + tl.load(a_at + (M - 1 - k)).to(tl.float32)
        dq = tl.zeros([TILE], tl.float32)
        q = tl.zeros([TILE], tl.float32)
        for k in tl.static_range(N):
            q = q + tl.load(b_at + group * N + (N - 1 - k)).to(tl.float32)
            dq = dq * x + q
            q = q * x
        sign = tl.where(q >= 0, 1.0, -1.0)
        r = 1 / (1 + q * sign)
        u = grad * r
        value = p * r * sign
        tl.store(dx_at + at, u * (dp - value * dq), mask=inside)
        power = u
        for k in tl.static_range(M + 1):
            sums += tl.where(place == k, tl.sum(power, 0), 0.0)
            power = power * x
        power = -u * value
        for k in tl.static_range(N):
            power = power * x
            sums += tl.where(place == M + 1 + k, tl.sum(power, 0), 0.0)
    mine = group * tl.num_programs(0) + tl.program_id(0)
    each = tl.num_programs(0) * tl.num_programs(1)
    tl.store(sums_at + place * each + mine, sums, mask=place < M + 1 + N)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _add_up(  # type: ignore[no-untyped-def]
    sums_at, da_at, db_at, runs, groups, M: tl.constexpr, N: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr
):
    which, each = tl.program_id(0), runs * groups
    of_a = which <= M
    group, power = (which - M - 1) // N, (which - M - 1) % N
    first = tl.where(of_a, which * each, (M + 1 + power) * each + group * runs)
    length = tl.where(of_a, each, runs)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, CHUNKS * BLOCK, BLOCK):
        place = start + tl.arange(0, BLOCK)
        total += tl.load(sums_at + first + place, mask=place < length, other=0.0).to(tl.float64)
    answer = tl.sum(total, 0).to(tl.float32)
    tl.store(da_at + which, answer, mask=of_a)
    tl.store(db_at + group * N + power, answer, mask=which > M)


def _runs(x: Tensor, groups: int) -> tuple[int, int, int, int]:
    """Rows, channels of a group, rows for one program, programs for each group."""
    channels = x.shape[-1]
    rows, width = x.numel() // max(1, channels), channels // groups
    # Few different numbers of rows: each is compiled anew.
    per = max(1, min(triton.next_power_of_2(max(1, rows)), RUN // width))
    per = max(per, triton.next_power_of_2(triton.cdiv(rows, RUNS)))
    return rows, width, per, triton.cdiv(rows, per)


def forward(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    x, a, b = x.contiguous(), a.contiguous(), b.contiguous()
    (groups, n), m = b.shape, a.shape[0] - 1
    rows, width, per, runs = _runs(x, groups)
    y = torch.empty_like(x)
    if x.numel():
        with torch.cuda.device_of(x):
            _forward[(runs, groups)](x, a, b, y, rows, x.shape[-1], width, per, m, n, TILE, num_warps=WARPS)
    return y


def backward(grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grad, x, a, b = grad.contiguous(), x.contiguous(), a.contiguous(), b.contiguous()
    (groups, n), m = b.shape, a.shape[0] - 1
    rows, width, per, runs = _runs(x, groups)
    if not x.numel():
        return torch.empty_like(x), torch.zeros_like(a), torch.zeros_like(b)
    dx, da, db = torch.empty_like(x), torch.empty_like(a), torch.empty_like(b)
    sums = torch.empty(m + 1 + n, groups, runs, device=x.device)
    places, block = triton.next_power_of_2(m + 1 + n), min(BLOCK, triton.next_power_of_2(groups * runs))
    with torch.cuda.device_of(x):
        _backward[(runs, groups)](
            grad, x, a, b, dx, sums, rows, x.shape[-1], width, per, m, n, TILE, places, num_warps=WARPS
        )
        chunks = triton.cdiv(groups * runs, block)
        _add_up[(m + 1 + groups * n,)](sums, da, db, runs, groups, m, n, chunks, block)
    return dx, da, db
