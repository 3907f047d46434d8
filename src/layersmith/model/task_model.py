"""A model for any task: the layers of the reference transformer between an input and an output of the task's kind.

    x = W_in features, or an embedding of ids          (B, T, D)
    x = layers(x)                                      as in `TransformerLM`, as often as it is looped
    y = W_out norm(x)                                  for a class W_out of the mean over positions

Where a position may see those after it, mixers that are not causal may stand in the layers. Of several series a token
may be a series, or a stretch of one, instead of a time (`series.py`).

Shapes: ids (B, T) or features (B, T, n_inputs) -> (B, T, n_outputs), or (B, n_outputs) for a class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.block.shared.inside import norm_of
from layersmith.contract import Block
from layersmith.cost import Cost
from layersmith.errors import UserError
from layersmith.model.config import TransformerConfig
from layersmith.model.series import Decomposed, InstanceNorm, SeriesForm, patches
from layersmith.model.spec import ROUND, Spec, expand
from layersmith.model.transformer import layer_at, scale_of, scaled

PLAIN = SeriesForm()
#: Steps of width beyond which nobody looks: the width of the largest models, and more than a budget will be.
LARGEST = 1024


@dataclass(frozen=True)
class Ends:
    """What a model reads and writes.

    reads     ids of a vocabulary, or vectors of features
    writes    something at every position ("tokens", "real"), or once ("class")
    n_inputs, n_outputs   size of the vocabulary or width of the features; numbers written at a time
    tokens    positions of an input
    causal    whether a position may see only those before it
    once      whether numbers are asked once, at the last position: n_outputs / n_inputs in a row of each series
    """

    reads: Literal["tokens", "features"]
    writes: Literal["tokens", "class", "real"]
    n_inputs: int
    n_outputs: int
    tokens: int
    causal: bool
    once: bool = False


class TaskModel(nn.Module):
    """The layers of a config between the ends of a task. Draws its weights from torch's global generator.

    trust_remote_code   whether classes of the user's own may be imported
    form                what is done to series; UserError where the task has none
    """

    def __init__(
        self, config: TransformerConfig, ends: Ends, trust_remote_code: bool = False, form: SeriesForm = PLAIN
    ):
        super().__init__()
        self.ends, self.loops, self.form = ends, config.loops, form
        self.order = config.steps
        form.check(ends)
        self.tokens, n_inputs, n_outputs = ends.tokens, ends.n_inputs, ends.n_outputs
        if form != PLAIN:
            self.tokens, n_inputs, n_outputs = form.sizes(ends)
        if ends.reads == "tokens":
            table = nn.Embedding(ends.n_inputs, config.d_model)
            nn.init.normal_(table.weight, std=config.initializer_range)
            self.embed: nn.Module = table
        elif form.decompose is not None:
            self.embed = Decomposed(n_inputs, config.d_model, form.decompose)
        else:
            self.embed = nn.Linear(n_inputs, config.d_model)
        self.instance_norm = InstanceNorm(ends.n_inputs) if form.instance_norm else None
        self.embed_scale = scale_of(config)
        with catalogue.trusting(trust_remote_code):
            self.layers = nn.ModuleList(layer_at(config, i, ends.causal) for i in range(len(config.layers)))
            self.final_norm = norm_of(config.final_norm, config.d_model, "final_norm")
        read = config.d_model if form.patch is None else config.d_model * self.tokens
        self.head = nn.Linear(read, n_outputs, bias=False)
        nn.init.normal_(self.head.weight, std=config.initializer_range)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.instance_norm is None:
            return self._foretold(inputs)
        x, taken = self.instance_norm(inputs)
        return self.instance_norm.back(self._foretold(x), taken)

    def _foretold(self, inputs: Tensor) -> Tensor:
        if self.form.inverted:
            found = self.head(self._through(inputs.transpose(1, 2)))
        elif self.form.patch is not None:
            x = self._through(patches(inputs, self.form.patch))
            found = self.head(x.flatten(1)).unflatten(0, inputs.shape[::2])
        else:
            x = self._through(inputs)
            return self.head(x.mean(1) if self.ends.writes == "class" else x)
        # series by series -> hour by hour, each with all series
        return found.transpose(1, 2).flatten(1)[:, None].expand(-1, inputs.shape[1], -1)

    def _through(self, inputs: Tensor) -> Tensor:
        """What stands before the output map, (B, tokens, D)."""
        x = embedded = scaled(self.embed(inputs), self.embed_scale)
        for turn in range(self.loops):
            x = x + embedded if turn else x
            for index in self.order:
                x, _ = self.layers[index](x, None, None)
        return self.final_norm(x)

    def params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def cost(self) -> Cost:
        """Of one example of the task: the operators' own accounts, and the input and output maps.

        state_bytes  what all mixers keep to go on after the last position
        """
        tokens = self.tokens
        passes = 1 if self.form.patch is None else self.ends.n_inputs
        blocks = {i: layer for i, layer in enumerate(self.layers) if isinstance(layer, Block)}
        costs = {i: layer.cost(1, tokens) for i, layer in blocks.items()}
        written = 1 if self.ends.writes == "class" or self.form.patch is not None else tokens
        maps = [part for part in self.embed.modules() if isinstance(part, nn.Linear)]
        ends = 2 * tokens * sum(part.weight.numel() for part in maps) + 2 * written * self.head.weight.numel()
        params = self.params()
        return Cost(
            params=params,
            active_params=params - sum(cost.params - cost.active_params for cost in costs.values()),
            flops=passes * (self.loops * sum(costs[i].flops for i in self.order) + ends),
            state_bytes=passes * self.loops * sum(costs[i].state_bytes for i in self.order),
            weight_bytes=4 * params,
        )


def build(spec: Spec, ends: Ends, trust_remote_code: bool = False) -> TaskModel:
    """A fresh model. UserError where an operator does not fit: another family, sizes it refuses, not causal."""
    form = SeriesForm.of(spec)
    form.check(ends)
    tokens = ends.tokens if form == PLAIN else form.sizes(ends)[0]
    config = expand(spec, ends.n_inputs, ends.causal, trust_remote_code, tokens)
    return TaskModel(config, ends, trust_remote_code, form)


def cost_of(spec: Spec, ends: Ends, trust_remote_code: bool = False) -> Cost:
    """What a model of this spec costs for one example. Torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return build(spec, ends, trust_remote_code).cost()


def fit_width(
    spec: Spec,
    ends: Ends,
    *,
    params: float | None = None,
    flops: float | None = None,
    state_bytes: float | None = None,
    tolerance: float = 0.05,
    trust_remote_code: bool = False,
) -> Spec:
    """The spec with the width, and then the inner width of its feed-forwards, at which its cost is the one asked for.

    params, flops, state_bytes   exactly one: parameters; FLOPs of a forward over one example; bytes of state after it
    tolerance                    by which share the cost may differ
    UserError, with the nearest that can be reached, when no width comes that close.
    """
    asked = {"params": params, "flops": flops, "state_bytes": state_bytes}
    bounds = {name: value for name, value in asked.items() if value is not None}
    if len(bounds) != 1:
        raise UserError("fit_width takes exactly one of params, flops and state_bytes.")
    ((quantity, target),) = bounds.items()

    def reached(candidate: Spec) -> float:
        with torch.random.fork_rng(devices=[]):
            model = build(candidate, ends, trust_remote_code)
        return float(model.params() if quantity == "params" else getattr(model.cost(), quantity))

    def off(candidate: Spec) -> float:
        """By which share it misses; infinite for what an operator refuses, sizes that its groups do not divide say."""
        try:
            return abs(reached(candidate) / target - 1)
        except UserError:
            return math.inf

    def too_small(width: int) -> bool:
        try:
            return reached(spec.resized(width, spec.inner)) < target
        except UserError:
            return width < spec.d_model

    reached(spec)  # what cannot be built at all is said as such
    low, high = _bracket(too_small, math.lcm(spec.multiple, ROUND))
    best = min((spec.resized(width, spec.inner) for width in range(low, high + 1, spec.multiple)), key=off)
    # What whole heads leave over, the feed-forwards take: their inner width has finer steps.
    thin, thick = 0.5 * spec.inner, 2.0 * spec.inner
    for _ in range(8):
        candidate = spec.resized(best.d_model, (thin * thick) ** 0.5)
        if off(best) < tolerance / 10 or off(candidate) == math.inf:
            break
        thin, thick = (candidate.inner, thick) if reached(candidate) < target else (thin, candidate.inner)
        best = min(best, candidate, key=off)
    if off(best) > tolerance:
        raise UserError(
            f"No width of this model comes within {tolerance:.0%} of {quantity}={target:g}: the nearest is "
            f"{quantity}={reached(best):g}, at d_model={best.d_model}. Ask for that, or allow a larger tolerance."
        )
    return best


def _bracket(too_small: Callable[[int], bool], step: int) -> tuple[int, int]:
    """Two neighbouring multiples of `step`, the first of them too small (or the least), the second not (or huge)."""
    low, high = 1, 1
    while too_small(step * high) and high < LARGEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if too_small(step * middle) else (low, middle)
    return step * low, step * high
