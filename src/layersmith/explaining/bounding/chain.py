"""Bounds on what a chain of layers gives for every input within a ball.

    interval   each layer alone maps intervals to intervals (IBP)
    forward    every value between two linear functions of the input, carried from layer to layer
    backward   the outputs between two linear functions, carried from the outputs back to the input (CROWN); the
               intervals of the layers on the way come from the same, of the chain up to there

Linear functions of the input are bounded over the ball exactly: c.a + b -+ radius ||a||_2. Every interval is the
intersection with what `interval` gives, so neither of the two is ever looser. Activations lie between two lines
(`lines.py`), the product of gate and value between two planes, for p in [l, u] and q in [m, v] (McCormick):

    p q >= m p + l q - l m  and  v p + u q - u v,      p q <= v p + l q - l v  and  m p + u q - u m

Below and above, a mean of the two planes is taken: all of them leave as much room in the middle, so that the one is
chosen that varies least over the intervals. Everything is computed in float64 and widened by `OUTWARD`.

Papers: "Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond" (both directions over any graph;
in Verified-Intelligence/auto_LiRPA, by the same authors: the dual norm, and fixed means of these planes), Zhang et al.
2018, arXiv 1811.00866 (CROWN), Gowal et al. 2018, arXiv 1810.12715 (IBP).

Shapes: N balls, D inputs; bounds (N, width); linear functions (N, width, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from layersmith.explaining.bounding.lines import Bend, Lines, lines, span
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP

#: By how much bounds are widened, relative to their size: far more than float64 rounds.
OUTWARD = 1e-9

Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Ball:
    """All x with ||x - centre|| <= radius: centre (N, D), radius (N,)."""

    centre: Tensor
    radius: Tensor

    def extreme(self, weight: Tensor, bias: Tensor, sign: int) -> Tensor:
        """The least (sign -1) or largest (+1) value of weight x + bias over the ball, (N, width)."""
        middle = torch.einsum("nwd,nd->nw", weight, self.centre) + bias
        return middle + sign * self.radius[:, None] * weight.norm(dim=-1)


@dataclass(frozen=True)
class Affine:
    """z -> weight z + bias: (out, in), (out,)."""

    weight: Tensor
    bias: Tensor

    def interval(self, box: Interval) -> Interval:
        low, high = box
        middle, half = (low + high) / 2, (high - low) / 2
        y, spread = middle @ self.weight.T + self.bias, half @ self.weight.abs().T
        return y - spread, y + spread


@dataclass(frozen=True)
class Gated:
    """z -> bend(gate z) * (up z)."""

    gate: Affine
    up: Affine
    bend: Bend


Layer = Affine | Bend | Gated


@dataclass(frozen=True)
class Bounded:
    """The bounds of a chain: of each output the least and the largest value, (N, width) each."""

    low: Tensor
    high: Tensor

    @property
    def width(self) -> Tensor:
        """(N,): mean over the outputs."""
        return (self.high - self.low).mean(-1)


def chain_of(operator: MLP | GLU) -> list[Layer] | None:
    """A feed-forward of ours as layers, in float64; None where the curvature of its activation is not known."""
    bend = Bend.of(operator.act)
    if bend is None:
        return None
    if isinstance(operator, MLP):
        return [_affine(operator.up), bend, _affine(operator.down)]
    return [Gated(_affine(operator.gate), _affine(operator.up), bend), _affine(operator.down)]


def interval(chain: Sequence[Layer], ball: Ball) -> Bounded:
    """IBP. The ball itself is bounded exactly by the first layer."""
    return _outward(_boxes(chain, ball)[-1])


def backward(chain: Sequence[Layer], ball: Ball) -> Bounded:
    """CROWN, from the outputs back."""
    boxes: list[Interval] = []
    plain = _boxes(chain, ball)
    for end in range(1, len(chain) + 1):
        boxes.append(_met(_back(chain[:end], boxes, ball), plain[end - 1]))
    return _outward(boxes[-1])


def forward(chain: Sequence[Layer], ball: Ball) -> Bounded:
    """Linear functions of the input carried forward."""
    count, width = ball.centre.shape
    same = torch.eye(width, dtype=ball.centre.dtype, device=ball.centre.device).expand(count, -1, -1)
    none = ball.centre.new_zeros(count, width)
    below, above = (same, none), (same, none)
    plain = _boxes(chain, ball)
    box: Interval | None = None
    for layer, known in zip(chain, plain, strict=True):
        below, above = _carried(layer, below, above, box, ball)
        box = _met((ball.extreme(*below, -1), ball.extreme(*above, +1)), known)
    assert box is not None
    return _outward(box)


# -- intervals ----------------------------------------------------------------------------------------------------


def _boxes(chain: Sequence[Layer], ball: Ball) -> list[Interval]:
    """What leaves each layer. Layers that read the ball are bounded over it, all others over a box."""
    boxes: list[Interval] = []
    for layer in chain:
        if isinstance(layer, Bend):
            boxes.append(span(layer, *boxes[-1]))
        elif isinstance(layer, Affine):
            boxes.append(_reach(layer, boxes, ball))
        else:
            gate, up = _reach(layer.gate, boxes, ball), _reach(layer.up, boxes, ball)
            corners = torch.stack([p * q for p in span(layer.bend, *gate) for q in up])
            boxes.append((corners.amin(0), corners.amax(0)))
    return boxes


def _reach(layer: Affine, boxes: Sequence[Interval], ball: Ball) -> Interval:
    if boxes:
        return layer.interval(boxes[-1])
    weight = layer.weight.expand(len(ball.centre), -1, -1)
    return ball.extreme(weight, layer.bias, -1), ball.extreme(weight, layer.bias, +1)


def _met(a: Interval, b: Interval) -> Interval:
    return torch.maximum(a[0], b[0]), torch.minimum(a[1], b[1])


def _outward(box: Interval) -> Bounded:
    low, high = box
    return Bounded(low - OUTWARD * (1 + low.abs()), high + OUTWARD * (1 + high.abs()))


# -- forward ------------------------------------------------------------------------------------------------------

Function = tuple[Tensor, Tensor]  # (N, width, D) and (N, width)


def _carried(
    layer: Layer, below: Function, above: Function, box: Interval | None, ball: Ball
) -> tuple[Function, Function]:
    """The two functions around what enters a layer -> those around what leaves it; box is what enters it."""
    if isinstance(layer, Affine):
        return _mapped(layer, below, above), _mapped(layer, above, below)
    if isinstance(layer, Bend):
        assert box is not None, "an activation comes after a layer"
        line = lines(layer, *box)
        low = _scaled(line.lower_slope, line.lower_offset, below, above)
        return low, _scaled(line.upper_slope, line.upper_offset, above, below)
    inner = []
    for part in (layer.gate, layer.up):
        around = _mapped(part, below, above), _mapped(part, above, below)
        reached = (ball.extreme(*around[0], -1), ball.extreme(*around[1], +1))
        inner.append((around, reached if box is None else _met(reached, part.interval(box))))
    (gate, gate_box), (up, up_box) = inner
    line = lines(layer.bend, *gate_box)
    bent = (
        _scaled(line.lower_slope, line.lower_offset, gate[0], gate[1]),
        _scaled(line.upper_slope, line.upper_offset, gate[1], gate[0]),
    )
    made = []
    for side, plane in enumerate(planes(span(layer.bend, *gate_box), up_box)):
        first = _scaled(plane.of_up, plane.offset, up[side], up[1 - side])
        second = _scaled(plane.of_gate, torch.zeros_like(plane.offset), bent[side], bent[1 - side])
        made.append((first[0] + second[0], first[1] + second[1]))
    return made[0], made[1]


def _mapped(layer: Affine, same: Function, other: Function) -> Function:
    positive, negative = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
    weight = positive @ same[0] + negative @ other[0]
    return weight, same[1] @ positive.T + other[1] @ negative.T + layer.bias


def _scaled(slope: Tensor, offset: Tensor, same: Function, other: Function) -> Function:
    """slope * value + offset, with the function on the side that its sign asks for."""
    positive, negative = slope.clamp_min(0), slope.clamp_max(0)
    weight = positive[..., None] * same[0] + negative[..., None] * other[0]
    return weight, positive * same[1] + negative * other[1] + offset


# -- backward -----------------------------------------------------------------------------------------------------


def _back(chain: Sequence[Layer], boxes: Sequence[Interval], ball: Ball) -> Interval:
    """The outputs of a chain over the ball; boxes: what leaves each layer but the last."""
    found = []
    for sign in (-1, +1):
        last = chain[-1]
        width = len(last.weight) if isinstance(last, Affine) else len(last.up.bias) if isinstance(last, Gated) else None
        width = boxes[-1][0].shape[-1] if width is None else width
        weight = torch.eye(width, dtype=ball.centre.dtype, device=ball.centre.device).expand(len(ball.centre), -1, -1)
        bias = ball.centre.new_zeros(len(ball.centre), width)
        for index in reversed(range(len(chain))):
            enters = boxes[index - 1] if index else None
            weight, bias = _undone(chain[index], weight, bias, sign, enters, ball)
        found.append(ball.extreme(weight, bias, sign))
    return found[0], found[1]


def _undone(
    layer: Layer, weight: Tensor, bias: Tensor, sign: int, box: Interval | None, ball: Ball
) -> tuple[Tensor, Tensor]:
    """A linear function of what leaves the layer -> one of what enters it, below (sign -1) or above it."""
    if isinstance(layer, Affine):
        return weight @ layer.weight, bias + weight @ layer.bias
    if isinstance(layer, Bend):
        assert box is not None, "an activation comes after a layer"
        return _through_lines(lines(layer, *box), weight, bias, sign)
    gate_box, up_box = (_reach(part, [box] if box is not None else [], ball) for part in (layer.gate, layer.up))
    below, above = planes(span(layer.bend, *gate_box), up_box)
    upper = weight * sign >= 0
    plane = Plane(*(torch.where(upper, a[:, None], b[:, None]) for a, b in zip(above, below, strict=True)))
    bias = bias + (weight * plane.offset).sum(-1)
    to_gate, bias = _through_lines(lines(layer.bend, *gate_box), weight * plane.of_gate, bias, sign)
    to_up = weight * plane.of_up
    bias = bias + to_gate @ layer.gate.bias + to_up @ layer.up.bias
    return to_gate @ layer.gate.weight + to_up @ layer.up.weight, bias


def _through_lines(line: Lines, weight: Tensor, bias: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    upper = weight * sign >= 0
    slope = torch.where(upper, line.upper_slope[:, None], line.lower_slope[:, None])
    offset = torch.where(upper, line.upper_offset[:, None], line.lower_offset[:, None])
    return weight * slope, bias + (weight * offset).sum(-1)


class Plane(NamedTuple):
    """of_gate p + of_up q + offset, on one side of p q for p and q in their intervals."""

    of_gate: Tensor
    of_up: Tensor
    offset: Tensor


def planes(p: Interval, q: Interval) -> tuple[Plane, Plane]:
    """Below and above p q: the means of the two touching planes of which (of_gate dp)^2 + (of_up dq)^2 is least."""
    (low, high), (least, most) = p, q
    dp, dq = high - low, most - least
    area = (2 * dp * dq).clamp_min(1e-300)
    share = ((high * dq + most * dp) / area).clamp(0, 1)
    below = Plane(most - share * dq, high - share * dp, share * (high * most - low * least) - high * most)
    share = ((high * dq - least * dp) / area).clamp(0, 1)
    above = Plane(least + share * dq, high - share * dp, share * (high * least - low * most) - high * least)
    return below, above


def _affine(linear: torch.nn.Linear) -> Affine:
    weight = linear.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach().double()
    return Affine(weight, bias)
