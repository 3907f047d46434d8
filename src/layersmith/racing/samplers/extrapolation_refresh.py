"""Extrapolation and refresh: between whole steps shallow layers run for some patches, deep ones not at all.

    whole steps       the first two, then every `interval`-th: all layers for all patches
    shallow layers    else: of every 2 x 2 patches, the `refreshed` ones that were computed least often; their queries
                      see the keys and values of all patches, old ones where these are not computed; what the layer
                      gave for the others stays as it was
    deep layers       else: what attention and feed-forward add to the stream goes on along the line through the last
                      two whole steps: F_t = F_(t-1) + (F_(t-1) - F_(t-2))

Both branches of a deep layer are extrapolated together, which is the same. With extrapolate=False what deep layers add
stays as it was, the rule this is held against. Of the work of all layers a drawing takes `share(layers)`.

Paper: "HERO: Hierarchical Extrapolation and Refresh for Efficient World Models", arXiv 2508.17588 (which patches are
refreshed, and when steps are whole: from memory of its abstract, not confirmed).
Differs from the paper: one picture, not a video with actions. Queries and keys are not rotated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layersmith.block.series import Series
from layersmith.errors import UserError
from layersmith.mixer.shared.heads import merge_heads
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.racing.samplers.sampler import Sampler
from layersmith.racing.samplers.skipping import (
    History,
    answered,
    embedded,
    is_computed,
    line,
    opened,
    remembered,
    share_computed,
)
from layersmith.racing.tasks.shared.checks import flag, whole

if TYPE_CHECKING:
    from layersmith.racing.tasks.generation import Generation

#: Patches of which `refreshed` are computed.
GROUP = 4


class ExtrapolationRefresh(Sampler):
    """
    interval      from one whole step to the next
    shallow       layers that are refreshed; the others are extrapolated
    refreshed     patches of every four that are
    extrapolate   False: deep layers add what they added last
    """

    def __init__(
        self,
        steps: int = 16,
        guidance: float = 1.0,
        interval: int = 3,
        shallow: int = 1,
        refreshed: int = 1,
        extrapolate: bool = True,
    ):
        super().__init__(steps, guidance)
        self.interval, self.shallow = whole("interval", interval, 1), whole("shallow", shallow, 0)
        self.refreshed, self.extrapolate = whole("refreshed", refreshed, 0, GROUP), flag("extrapolate", extrapolate)

    def share(self, layers: int) -> float:
        """Of the work of all layers, what a drawing takes."""
        computed = share_computed(self.steps, self.interval)
        return computed + (1 - computed) * self.shallow / layers * self.refreshed / GROUP

    def check(self, model: nn.Module, task: Generation) -> None:
        layers = opened(model).layers
        if self.shallow > len(layers):
            raise UserError(f"shallow={self.shallow}, and the model has {len(layers)} layers: lower it.")
        if any(side % 2 for side in task.grid):
            raise UserError(
                f"extrapolation_refresh takes 2 x 2 patches, and there are {task.grid}: give another patch."
            )
        for layer in layers[: self.shallow]:
            usual(layer)

    def learn(self, model: nn.Module, task: Generation) -> nn.Module:
        """Nothing is learned; which patches are neighbours is looked up."""
        self.check(model, task)
        self.groups = grouped(*task.grid)
        return model

    def run(self, model: nn.Module, inputs: Tensor, step: int) -> Tensor:
        opened_model = opened(model)
        if step == 0:
            self.visits = torch.zeros(inputs.shape[1], dtype=torch.long, device=inputs.device)
            self.kept: dict[tuple[int, str], Tensor] = {}
            self.added: dict[int, History] = {}
        whole_step = is_computed(step, self.interval)
        rows = torch.arange(inputs.shape[1], device=inputs.device) if whole_step else self.due()
        self.visits[rows] += 1
        x = embedded(opened_model, inputs)
        for number, layer in enumerate(opened_model.layers):
            if number < self.shallow:
                x = self.refresh(layer, number, x, rows)
            elif whole_step:
                y, _ = layer(x, None, None)
                self.added[number] = remembered(self.added.get(number, []), step, y - x)
                x = y
            else:
                history = self.added[number]
                x = x + (line(history, step) if self.extrapolate else history[-1][1])
        return answered(opened_model, x)

    def due(self) -> Tensor:
        """The patches of each group that were computed least often, the first of equals."""
        groups = self.groups.to(self.visits.device)
        order = self.visits[groups].argsort(dim=1, stable=True)[:, : self.refreshed]
        return groups.gather(1, order).flatten().sort().values

    def refresh(self, layer: nn.Module, number: int, x: Tensor, rows: Tensor) -> Tensor:
        """What the layer makes of all patches, computed for the patches `rows` alone."""
        series, attention = usual(layer)
        q, k, v = attention.project(series.norm(x[:, rows]), None, None)
        k, v = self.renewed((number, "k"), 2, rows, k), self.renewed((number, "v"), 2, rows, v)
        seen, _ = attention.mix(q, k, v, None, None)
        y = x[:, rows] + attention.o(merge_heads(seen))
        return self.renewed((number, "y"), 1, rows, y + series.ffn(series.ffn_norm(y)))

    def renewed(self, name: tuple[int, str], dim: int, rows: Tensor, values: Tensor) -> Tensor:
        """What is kept under the name, of all patches, with new values for some."""
        self.kept[name] = self.kept[name].index_copy(dim, rows, values) if name in self.kept else values
        return self.kept[name]


def usual(layer: nn.Module) -> tuple[Series, SoftmaxAttention]:
    """The layer and its attention, of which single patches can be computed. UserError for another."""
    if isinstance(layer, Series) and not layer.post and layer.first_ffn is None:
        attention: nn.Module = layer.mixer
        usual_sums = layer.mixer_factors == layer.ffn_factors == (1.0, 1.0)
        # What derives from it may do more around the scores, and a causal one takes its queries to be the last ones.
        if (
            usual_sums
            and type(attention) is SoftmaxAttention
            and not (attention.causal or attention.rope_theta or attention.window)
        ):
            return layer, attention
    raise UserError(
        "extrapolation_refresh computes single patches of shallow layers, which it can in the usual layer with "
        "softmax_attention that is neither causal nor rotated: give the entrant rope_theta: null, or shallow: 0."
    )


def grouped(height: int, width: int) -> Tensor:
    """The numbers of patches in squares of 2 x 2: (height * width / 4, 4)."""
    numbers = torch.arange(height * width).reshape(height, width)
    return numbers.unfold(0, 2, 2).unfold(1, 2, 2).flatten(2).flatten(0, 1)
