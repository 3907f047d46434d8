"""Healthy parts and, for each promise of the contract, a twin that breaks it and nothing else if it can.

Written the way a user would write them: a constructor and `forward`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, Mixer, State, require_positive


class Healthy(FeedForward):
    """y = W2 relu(W1 x), the twin of every broken feed-forward below."""

    def __init__(self, d_model: int, d_hidden: int = 24):
        super().__init__()
        require_positive(Healthy, d_model=d_model, d_hidden=d_hidden)
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class CrossToken(Healthy):
    """Adds a trace of the mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 1e-7 * x.mean(dim=1, keepdim=True) if x.dim() == 3 and x.shape[1] > 1 else y


class BatchLeak(Healthy):
    """Adds a trace of the mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 1e-7 * x.mean(dim=0) if x.dim() == 3 else y


class DroppedGradient(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)).detach())


class HalfGradient(Healthy):
    """Every parameter still gets a gradient, but the gate's branch is cut: a wrong one."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        return self.down(hidden * torch.sigmoid(hidden).detach())


class WrongFlops(Healthy):
    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        honest = super().cost(batch, tokens)
        return replace(honest, flops=honest.flops // 2)


class WrongParams(Healthy):
    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        honest = super().cost(batch, tokens)
        return replace(honest, params=honest.params + 1)


class WrongActive(Healthy):
    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        return replace(super().cost(batch, tokens), active_params=10)


class ForeignSeed(Healthy):
    """Initialises from a generator that torch.manual_seed does not reach."""

    def __init__(self, d_model: int, d_hidden: int = 24):
        super().__init__(d_model, d_hidden)
        draw = np.random.default_rng().normal(size=(d_hidden, d_model))
        self.up.weight.data = torch.tensor(draw, dtype=torch.float32)


class NoisyEvaluation(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-12 * torch.rand_like(x)


class UnsavedBuffer(Healthy):
    def __init__(self, d_model: int, d_hidden: int = 24):
        super().__init__(d_model, d_hidden)
        self.register_buffer("scale", 1 + torch.rand(d_model), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class Uninitialised(Healthy):
    """Forgets to write the last channel of the tensor it allocated. On the meta device nothing is read."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        out = torch.empty_like(y)
        out[..., :-1] = y[..., :-1]
        return out


class Unchecked(FeedForward):
    """No validation: torch builds a layer of width 0 without a word."""

    def __init__(self, d_model: int):
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class ReadsValues(Healthy):
    """Branches in Python on a value of the tensor, which no single graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.is_meta or y.sum() != 12345 else 2 * y


class OverwritesInput(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not x.requires_grad:
            x.mul_(1.0 + 1e-6)
        return y


class HalfInside(Healthy):
    """Answers in float32 whatever it is asked in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class LosesBits(Healthy):
    """Rounds to 3 bits where bfloat16 has 8."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return (y * 8).round() / 8 if y.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu") else y


class Flattens(Healthy):
    """Answers any input as a matrix of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(0, -2) if x.dim() > 3 else super().forward(x)


class LongRunsDiffer(Healthy):
    """Works in blocks of 64 tokens and treats the rest of a long run in another way."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.cat([y[:, :64], 1.01 * y[:, 64:]], dim=1) if x.dim() == 3 and x.shape[1] == 1000 else y


class NeedsTokens(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * x.max()


class CopiesItself(Healthy):
    def __deepcopy__(self, memo: dict) -> Healthy:
        return self


class AnyChoice(Healthy):
    """An activation it does not know is silently replaced."""

    def __init__(self, d_model: int, act: str = "relu"):
        super().__init__(d_model, 24)


class Swallows(Healthy):
    def __init__(self, d_model: int, d_hidden: int = 24, **options: int):
        super().__init__(d_model, d_hidden)


class HealthyMixer(Mixer):
    """The running mean of the values: y_t = W_o sum_{s<=t} v_s / t, padding left out."""

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(HealthyMixer, d_model=d_model)
        self.value, self.out = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        real = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        total = (self.value(x) * real[..., None]).cumsum(1)
        count = real.cumsum(1)
        if state is not None:
            total, count = total + state["total"][:, None], count + state["count"][:, None]
        y = self.out(total / count.clamp_min(1)[..., None])
        last_total = total[:, -1] if x.shape[1] else x.new_zeros(x.shape[0], x.shape[2])
        last_count = count[:, -1] if x.shape[1] else x.new_zeros(x.shape[0])
        return y, {"total": last_total, "count": last_count}


class FutureLeak(HealthyMixer):
    """A trace of the next token, far below what float32 would show."""

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        y, state = super().forward(x, state, mask)
        return y + 1e-8 * torch.cat([x[:, 1:], x[:, :1] * 0], dim=1), state


class MixerBatchLeak(HealthyMixer):
    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        y, state = super().forward(x, state, mask)
        return y + 1e-8 * x.mean(0), state


class ForgetsCount(HealthyMixer):
    """The chunked form is not the parallel one: the state drops how many tokens it has seen."""

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        y, state = super().forward(x, state, mask)
        assert state is not None
        return y, {**state, "count": torch.zeros_like(state["count"])}


class IgnoresMask(HealthyMixer):
    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        return super().forward(x, state, None)


class IgnoresMaskInState(HealthyMixer):
    """Masks its outputs correctly, and hands padding on to decoding."""

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        return super().forward(x, state, mask)[0], super().forward(x, state, None)[1]


class WrongStateBytes(HealthyMixer):
    def state_bytes(self, tokens: int, batch: int = 1) -> int:
        return super().state_bytes(tokens, batch) + 4


class BatchLast(HealthyMixer):
    """Keeps its state with the batch as the last dimension."""

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        if state is not None:
            state = {"total": state["total"].mT, "count": state["count"]}
        y, state = super().forward(x, state, mask)
        assert state is not None
        return y, {"total": state["total"].mT, "count": state["count"]}


class Bidirectional(HealthyMixer):
    """The mean over all tokens: honest about being neither causal nor able to stream."""

    causal = False
    streams = False

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        if state is not None:
            raise ValueError("Bidirectional reads the whole sequence at once and takes no state.")
        real = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        total = (self.value(x) * real[..., None]).sum(1, keepdim=True) / real.sum(1).clamp_min(1)[:, None, None]
        return self.out(total).expand_as(x), None


class TakesAnyState(Bidirectional):
    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        return super().forward(x, None, mask)
