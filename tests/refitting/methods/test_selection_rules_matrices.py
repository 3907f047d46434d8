"""Which directions and grid points a matrix keeps, against rules written by hand (see `test_selection_rules`)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layersmith.linear.quantized import nearest_codes, rtn_grid
from layersmith.refitting import methods
from layersmith.refitting.methods.least_squares import reduced_rank
from layersmith.refitting.methods.quantize.gptq import gptq
from tests.refitting.methods.by_hand import (
    SITE,
    View,
    built,
    distinct,
    numbers,
)


def test_low_rank_keeps_the_directions_that_carry_most_output_and_the_bias():
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 40)
    x = torch.randn(400, 48) * torch.logspace(-1.5, 1, 48)[torch.randperm(48)]
    at = View(linears=lambda: {"p": linear}, used_linears=lambda: {"p": linear}, grams={"p": x.T @ x / 400}, site=SITE)
    part = built("low_rank", at, {"keep": 0.75})
    rank = int(0.75 * 48 * 40 / 88) // 8 * 8
    assert part.v.weight.shape == (rank, 48)
    assert torch.equal(part.u.bias, linear.bias)
    weight, x64 = linear.weight.detach().double().numpy(), x.double().numpy()
    product = np.asarray(numbers(part.u.weight)) @ np.asarray(numbers(part.v.weight))
    outputs = weight @ x64.T
    least = math.sqrt(sum(s * s for s in np.linalg.svd(outputs, compute_uv=False)[rank:]))
    assert np.linalg.norm(outputs - product @ x64.T) == pytest.approx(least, rel=1e-2)
    left, scale, right = np.linalg.svd(weight)
    plain = (left[:, :rank] * scale[:rank]) @ right[:rank]
    assert np.linalg.norm(outputs - plain @ x64.T) > 1.5 * least


def test_rank_r_keeps_the_directions_of_the_predictions_not_of_the_map():
    torch.manual_seed(0)
    x = torch.randn(300, 12) * torch.logspace(-1, 1, 12)
    y = x @ torch.randn(12, 10) * torch.logspace(-1, 0.5, 10) + 0.3 * torch.randn(300, 10) + 2.0
    up, down, bias = reduced_rank(x, y, rank=3, strength=1e-9)
    x64, y64 = x.double().numpy(), y.double().numpy()
    design, target = x64 - x64.mean(0), y64 - y64.mean(0)
    full = np.linalg.lstsq(design, target, rcond=None)[0]
    predictions = design @ full
    least = ((target - predictions) ** 2).sum() + (np.linalg.svd(predictions, compute_uv=False)[3:] ** 2).sum()
    found = y64 - x64 @ (up @ down).double().numpy().T - bias.double().numpy()
    assert (found**2).sum() == pytest.approx(least, rel=1e-4)
    left, scale, right = np.linalg.svd(full)
    of_the_map = (left[:, :3] * scale[:3]) @ right[:3]
    assert ((target - design @ of_the_map) ** 2).sum() > 1.2 * least


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_rtn_spans_each_group_and_takes_the_nearest_point(bits):
    torch.manual_seed(0)
    weight = torch.randn(3, 32) + torch.tensor([2.0, 0.0, -2.0])[:, None]  # lopsided: a symmetric grid would not do
    scale, zero = rtn_grid(weight, bits, 16)
    codes = nearest_codes(weight, scale, zero, bits)
    for row in range(3):
        for group in range(2):
            values = numbers(weight[row, 16 * group : 16 * group + 16])
            low, high = min(0.0, *values), max(0.0, *values)
            step = float(torch.tensor((high - low) / (2**bits - 1)).half())
            assert scale[row, group].item() == step
            assert zero[row, group].item() == min(2**bits - 1, round(-low / step))
            for i, value in enumerate(values):
                points = [(code - zero[row, group].item()) * step for code in range(2**bits)]
                nearest = min(abs(value - p) for p in points)
                assert abs(value - points[int(codes[row, 16 * group + i])]) <= nearest + 1e-5


def test_gptq_corrects_what_is_still_to_come_by_the_inverse_of_its_own_gram():
    """Optimal brain surgeon, column by column, with the inverse taken anew of what is left: the paper's equation 2."""
    torch.manual_seed(0)
    x = torch.randn(200, 32) @ torch.randn(32, 32)
    weight, gram = torch.randn(5, 32), x.T @ x
    codes, _, _ = gptq(weight, gram, bits=3, group=16)
    hessian = gram.double().numpy().copy()
    hessian += 0.01 * np.diag(hessian).mean() * np.eye(32)
    w = weight.double().numpy().copy()
    wanted = np.zeros((5, 32), dtype=int)
    for column in range(32):
        if column % 16 == 0:
            step, middle = rtn_grid(torch.tensor(w[:, column : column + 16]).float(), 3, 16)
            step, middle = (np.asarray(numbers(t[:, 0])) for t in (step, middle))
        inverse = np.linalg.inv(hessian[column:, column:])
        wanted[:, column] = np.clip(np.round(w[:, column] / step + middle), 0, 7)
        wrong = w[:, column] - (wanted[:, column] - middle) * step
        w[:, column:] -= np.outer(wrong / inverse[0, 0], inverse[0])
    assert codes.tolist() == wanted.tolist()
    distinct(codes.tolist(), rounding=nearest_codes(weight, *rtn_grid(weight, 3, 16), 3).tolist())


@pytest.mark.parametrize("group", [32, 64])
def test_int4_weight_takes_the_nearer_of_two_grids_group_by_group(group):
    torch.manual_seed(0)
    linear = torch.nn.Linear(128, 6)
    with torch.no_grad():
        linear.weight[0, :group] = torch.randint(0, 16, (group,)) * 0.25 - 1.1  # both ends on the grid, 0 is not
        linear.weight[0, :2] = torch.tensor([0.0, 15.0]) * 0.25 - 1.1
        linear.weight[1, :group] = torch.randint(0, 16, (group,)) * 0.25 - 1.0  # 0 on the grid
        linear.weight[2] = linear.weight[2].abs() + 1  # 0 is in the range that a grid spans
    at = View(linears=lambda: {"p": linear}, site=SITE)
    part = built("int4_weight", at, {"group_size": group})
    assert torch.equal(part.bias, linear.bias)
    got = numbers(part.dense_weight())
    for o, row in enumerate(numbers(linear.weight)):
        for start in range(0, 128, group):
            weights = row[start : start + group]
            low, high = min(0.0, *weights), max(0.0, *weights)
            scale = float(np.float16((high - low) / 15))
            grids = []
            for zero in (float(np.float16(round(-low / scale))), float(np.float16(-low / scale))):
                codes = [min(max(round(w / scale + zero), 0), 15) for w in weights]
                grids.append([(code - zero) * scale for code in codes])
            errors = [sum((a - w) ** 2 for a, w in zip(grid, weights, strict=True)) for grid in grids]
            mine = got[o][start : start + group]
            assert sum((a - w) ** 2 for a, w in zip(mine, weights, strict=True)) == pytest.approx(min(errors), rel=1e-3)
    assert np.abs(np.array(got[0][:group]) - numbers(linear.weight)[0][:group]).max() < 0.003, "of steps of 0.25"


def test_int4_weight_has_the_same_codes_whether_inputs_are_rounded_or_not():
    linear = torch.nn.Linear(128, 6)
    at = View(linears=lambda: {"p": linear}, site=SITE)
    plain, rounding = (built("int4_weight", at, {"group_size": 64, **more}) for more in ({}, {"input_bits": 8}))
    assert (plain.input_bits, rounding.input_bits) == (None, 8)
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), rounding.buffers(), strict=True))


def test_int4_weight_offers_the_groups_that_divide_every_width():
    def offered(*widths):
        linears = {str(i): torch.nn.Linear(width, 4) for i, width in enumerate(widths)}
        at = View(linears=lambda: linears, site=SITE)
        method = methods.get("int4_weight")
        every = method.options(at)
        assert every[-1:] == [settings | {"input_bits": 8} for settings in every[:1]]
        return [settings["group_size"] for settings in every if "input_bits" not in settings], (
            method.unsupported_reason(at)
        )

    assert offered(576, 1536) == ([32, 64], None)
    assert offered(256) == ([32, 64, 128], None)
    assert offered(256, 100)[0] == []
    assert offered(256, 100)[1] == "no group of 32, 64, 128 inputs divides all of its widths ([100, 256])"


def test_int8_weight_is_the_nearest_of_256_levels_a_group_and_leaves_inputs_alone():
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 5)
    part = built("int8_weight", View(linears=lambda: {"p": linear}, site=SITE), {})
    assert (part.bits, part.group_size) == (8, 48)
    scale, zero = (t.repeat_interleave(48, 1) for t in (part.scale.float(), part.zero.float()))
    codes = (linear.weight / scale).round() + zero
    torch.testing.assert_close(part.dense_weight(), (codes.clamp(0, 255) - zero) * scale)
    x = torch.randn(3, 96, dtype=torch.float64)
    with torch.no_grad():
        want = x @ part.dense_weight().double().T + linear.bias
        torch.testing.assert_close(part.double()(x), want, atol=1e-5, rtol=0)
