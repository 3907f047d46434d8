"""PolyNorm's activation in Triton: see `ffn.poly_norm`; called through `kernels.poly`.

One program handles the hidden layer of one token: it reads it once to add up its powers, and once more, from the cache,
to use the sums. What a token gives to the gradient of a is written down for itself and added in a second, small
reduction, always in the same order. The formulas are those of `poly.cpp`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Channels held at once, at most, and the warps that hold them.
TILE, WARPS = 4096, 2


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _squares(  # type: ignore[no-untyped-def]
    h_at, CHANNELS: tl.constexpr, ORDER: tl.constexpr, TILE: tl.constexpr, PLACES: tl.constexpr
):
    place = tl.arange(0, PLACES)
    sums = tl.zeros([PLACES], tl.float32)  # at place i, the sum of h^2i
    for start in range(0, CHANNELS, TILE):
        channel = start + tl.arange(0, TILE)
        h = tl.load(h_at + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        power = h
        for k in tl.static_range(ORDER):
            sums += tl.where(place == k + 1, tl.sum(power * power, 0), 0.0)
            power = power * h
    return sums


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _at(values, place, k):  # type: ignore[no-untyped-def]
    return tl.sum(tl.where(place == k, values, 0.0), 0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _forward(  # type: ignore[no-untyped-def]
    h_at,
    a_at,
    y_at,
    eps,
    CHANNELS: tl.constexpr,
    ORDER: tl.constexpr,
    TILE: tl.constexpr,
    PLACES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * CHANNELS
    place = tl.arange(0, PLACES)
    size = tl.rsqrt(_squares(h_at + row, CHANNELS, ORDER, TILE, PLACES) / CHANNELS + eps)
    a = tl.load(a_at + place, mask=place <= ORDER, other=0.0).to(tl.float32)
    c = tl.where(place == 0, a, a * size)
    for start in range(0, CHANNELS, TILE):
        channel = start + tl.arange(0, TILE)
        h = tl.load(h_at + row + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        y = tl.zeros([TILE], tl.float32) + _at(c, place, ORDER)
        for k in tl.static_range(ORDER):
            y = y * h + _at(c, place, ORDER - 1 - k)
        tl.store(y_at + row + channel, y, mask=channel < CHANNELS)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _backward(  # type: ignore[no-untyped-def]
    grad_at,
    h_at,
    a_at,
    dh_at,
    da_at,
    eps,
    CHANNELS: tl.constexpr,
    ORDER: tl.constexpr,
    TILE: tl.constexpr,
    PLACES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * CHANNELS
    place = tl.arange(0, PLACES)
    size = tl.rsqrt(_squares(h_at + row, CHANNELS, ORDER, TILE, PLACES) / CHANNELS + eps)
    moments = tl.zeros([PLACES], tl.float32)  # at place i, the sum of grad h^i
    for start in range(0, CHANNELS, TILE):
        channel = start + tl.arange(0, TILE)
        h = tl.load(h_at + row + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        power = tl.load(grad_at + row + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        for k in tl.static_range(ORDER + 1):
            moments += tl.where(place == k, tl.sum(power, 0), 0.0)
            power = power * h
    da = tl.where(place == 0, moments, moments * size)
    tl.store(da_at + tl.program_id(0) * (ORDER + 1) + place, da, mask=place <= ORDER)
    a = tl.load(a_at + place, mask=place <= ORDER, other=0.0).to(tl.float32)
    left = place * a * size
    right = left * (size * moments) * size / CHANNELS
    for start in range(0, CHANNELS, TILE):
        channel = start + tl.arange(0, TILE)
        h = tl.load(h_at + row + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        grad = tl.load(grad_at + row + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        p = tl.zeros([TILE], tl.float32) + _at(left, place, ORDER)
        q = tl.zeros([TILE], tl.float32) + _at(right, place, ORDER)
        for k in tl.static_range(ORDER - 1):
            p = p * h + _at(left, place, ORDER - 1 - k)
            q = q * h * h + _at(right, place, ORDER - 1 - k)
        tl.store(dh_at + row + channel, grad * p - h * q, mask=channel < CHANNELS)


def forward(h: Tensor, a: Tensor, eps: float) -> Tensor:
    h, a = h.contiguous(), a.contiguous()
    y, channels, order = torch.empty_like(h), h.shape[-1], a.shape[0] - 1
    if h.numel():
        with torch.cuda.device_of(h):
            places, tile = triton.next_power_of_2(order + 1), min(TILE, triton.next_power_of_2(channels))
            _forward[(h.numel() // channels,)](h, a, y, eps, channels, order, tile, places, num_warps=WARPS)
    return y


def backward(grad: Tensor, h: Tensor, a: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    grad, h, a = grad.contiguous(), h.contiguous(), a.contiguous()
    dh, channels, order = torch.empty_like(h), h.shape[-1], a.shape[0] - 1
    rows = h.numel() // max(1, channels)
    da = torch.zeros(rows, order + 1, device=h.device)
    if h.numel():
        with torch.cuda.device_of(h):
            places, tile = triton.next_power_of_2(order + 1), min(TILE, triton.next_power_of_2(channels))
            _backward[(rows,)](grad, h, a, dh, da, eps, channels, order, tile, places, num_warps=WARPS)
    return dh, da.double().sum(0).to(a.dtype)
