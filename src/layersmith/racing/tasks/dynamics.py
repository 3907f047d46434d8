"""Chaotic dynamics: from what was seen of a system so far, foretell what will be seen of it.

    lorenz96               x_k' = (x_{k+1} - x_{k-2}) x_{k-1} - x_k + force,   k = 1 ... n_seen, in a ring
    lorenz96_two_scale     the same less the sum of y_{jk} over four fast variables for each x_k, which are not seen:
                           y_j' = -100 y_{j+1} (y_{j+2} - y_{j-1}) - 10 y_j + x_k,   j over all of them, in a ring
    kuramoto_sivashinsky   u_t + u u_x + u_xx + u_xxxx = 0 on [0, 22), periodic, seen at n_seen points

Two samples are 0.05 apart (kuramoto_sivashinsky: 0.5). A runaway error doubles in about 0.4 of Lorenz' time, and in
some 15 of the other one. Every trajectory starts from a state of its own, and the first part of it, on the way to the
attractor, is left out; no trajectory is in two splits. What is seen is scaled to mean 0 and deviation 1 of "train".

Solved once a process, in float64: Lorenz by the classical Runge-Kutta step; the other by its exponential form (ETDRK4),
with the products' upper third of modes kept at zero.

Paper: "Deconstructing Recurrence, Attention, and Gating: Investigating the transferability of Transformers and Gated
Recurrent Neural Networks in forecasting of dynamical systems" (the systems; sizes from memory).
Differs from the paper: its gates of residual branches are not here; the forecast is one sample, `ahead` of the last
one, made at once, instead of a long one made step by step: scored is its error, not the time until it is too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, one_of, whole
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.linear_map import linear_map
from layersmith.racing.tasks.shared.runge_kutta import runge_kutta

Step = Callable[[Tensor], Tensor]
SYSTEMS = ("kuramoto_sivashinsky", "lorenz96", "lorenz96_two_scale")
FAST = 4  # unseen variables for each seen one
LENGTH, GRID = 22.0, 64
#: Time between two samples, of one step of the solver, and before the first sample.
TIMES = {
    "kuramoto_sivashinsky": (0.5, 0.05, 100.0),
    "lorenz96": (0.05, 0.01, 4.0),
    "lorenz96_two_scale": (0.05, 0.0025, 4.0),
}
#: A trajectory has this many times the samples that a model sees.
SPAN = 2
HELD_OUT = 64
PENALTY = 1e-6


class Dynamics(Task):
    """
    system   lorenz96, lorenz96_two_scale or kuramoto_sivashinsky
    tokens   samples seen, one after another
    n_seen   variables or points seen; of kuramoto_sivashinsky 8, 16, 32 or 64
    ahead    how many samples later the one is that is asked for
    force    of Lorenz' systems; chaotic from about 5 on
    n_train  trajectories to train on
    seed     of the trajectories
    """

    name = "dynamics"
    summary = "Foretell a chaotic system (Lorenz 96, Kuramoto-Sivashinsky) from what was seen of it."
    papers = ("deconstructing-recurrence-attention-gating",)
    reads = "features"
    writes = "real"
    metric = "mean squared error"
    higher_is_better = False

    def __init__(
        self,
        system: str = "lorenz96_two_scale",
        tokens: int = 32,
        n_seen: int = 8,
        ahead: int = 4,
        force: float = 10.0,
        n_train: int = 128,
        seed: int = 0,
    ):
        self.system, self.tokens = one_of("system", system, SYSTEMS), whole("tokens", tokens, 2, 1024)
        self.n_seen, self.ahead = whole("n_seen", n_seen, 4, 64), whole("ahead", ahead, 1, 64)
        if system == "kuramoto_sivashinsky" and n_seen not in (8, 16, 32, 64):
            raise ValueError(f"n_seen={n_seen} points cannot be spread evenly: give 8, 16, 32 or 64.")
        self.force = number("force", force, 0, 20)
        self.n_train, self.seed = whole("n_train", n_train, 1), whole("seed", seed, 0)
        self.n_inputs = self.n_outputs = n_seen

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        runs = self._runs()[split]
        which = torch.randint(len(runs), (size, 1), generator=generator, device="cpu")
        last = runs.shape[1] - self.tokens - self.ahead
        start = torch.randint(last + 1, (size, 1), generator=generator, device="cpu")
        places = start + torch.arange(self.tokens)
        return Batch(runs[which, places], runs[which, places + self.ahead])

    def yardsticks(self) -> dict[str, float]:
        """On 2048 windows. random: the mean; last value: nothing changes; linear: least squares from the last two
        samples; oracle: the system itself, which knows what is not seen."""
        batch = judged(self)
        seen, wanted = self._pairs(batch)
        train = self.batch(torch.Generator().manual_seed(0), len(batch.inputs))
        xs, ys = self._pairs(train)
        weights = linear_map(xs, ys, PENALTY * len(xs))
        return {
            "random": float(batch.targets.square().mean()),
            "last value": float((batch.inputs - batch.targets).square().mean()),
            "linear": float((seen @ weights - wanted).square().mean()),
            "oracle": 0.0,
        }

    def _pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The last two samples and a 1 (the first sample counts twice where there is one only), and what is asked."""
        before = torch.cat([batch.inputs[:, :1], batch.inputs[:, :-1]], 1)
        both = torch.cat([batch.inputs, before, torch.ones_like(before[..., :1])], -1)
        return both.flatten(0, 1).double(), batch.targets.flatten(0, 1).double()

    def _runs(self) -> dict[Split, Tensor]:
        samples = SPAN * self.tokens + self.ahead
        return runs(self.system, samples, self.n_seen, self.force, self.n_train, self.seed)


@cache
def runs(system: str, samples: int, n_seen: int, force: float, n_train: int, seed: int) -> dict[Split, Tensor]:
    """What is seen of each trajectory, scaled: (trajectories, samples, n_seen) float32 of each split."""
    generator = torch.Generator().manual_seed(seed)
    states = trajectories(system, generator, n_train + 2 * HELD_OUT, samples, n_seen, force)
    seen = states[..., :: GRID // n_seen] if system == "kuramoto_sivashinsky" else states[..., :n_seen]
    train = seen[:n_train]
    scale = train.std(correction=0).clamp_min(1e-6)  # without much of a force all comes to rest
    parts = ((seen - train.mean()) / scale).float().split([n_train, HELD_OUT, HELD_OUT])
    return {"train": parts[0], "valid": parts[1], "test": parts[2]}


def trajectories(
    system: str, generator: torch.Generator, count: int, samples: int, n_seen: int, force: float
) -> Tensor:
    """Whole states on the attractor: (count, samples, variables) float64, those that are seen first."""
    if system == "kuramoto_sivashinsky":
        start = torch.randn(count, GRID, generator=generator, device="cpu", dtype=torch.float64)
        return _sampled(_smoothed(start), TIMES[system], samples, kuramoto_step(TIMES[system][1]))
    fast = FAST * n_seen if system == "lorenz96_two_scale" else 0
    x = torch.randn(count, n_seen + fast, generator=generator, device="cpu", dtype=torch.float64)
    x[:, n_seen:] *= 0.1

    def step(state: Tensor) -> Tensor:
        return runge_kutta(lambda now: lorenz(now, n_seen, force), state, TIMES[system][1])

    return _sampled(x, TIMES[system], samples, step)


def _sampled(state: Tensor, times: tuple[float, float, float], samples: int, step: Step) -> Tensor:
    between, small, before = times
    for _ in range(round(before / small)):
        state = step(state)
    found = []
    for _ in range(samples):
        found.append(state)
        for _ in range(round(between / small)):
            state = step(state)
    return torch.stack(found, 1)


def lorenz(state: Tensor, n_seen: int, force: float) -> Tensor:
    """How fast a state (B, variables) changes; variables beyond the first n_seen are the fast ones."""
    x, y = state[:, :n_seen], state[:, n_seen:]
    slow = (x.roll(-1, 1) - x.roll(2, 1)) * x.roll(1, 1) - x + force
    if not y.shape[1]:
        return slow
    slow = slow - y.unflatten(1, (n_seen, FAST)).sum(2)
    quick = -100 * y.roll(-1, 1) * (y.roll(-2, 1) - y.roll(1, 1)) - 10 * y + x.repeat_interleave(FAST, 1)
    return torch.cat([slow, quick], 1)


def kuramoto_step(dt: float) -> Step:
    """The step u (B, GRID) -> u after dt. Its coefficients are means over a circle, where differences do not cancel."""
    k = 2 * math.pi / LENGTH * torch.arange(GRID // 2 + 1).double()
    inside = torch.arange(GRID // 2 + 1) < GRID / 3
    linear = k**2 - k**4
    whole_step, half_step = (dt * linear).exp(), (dt / 2 * linear).exp()
    around = torch.exp(2j * math.pi * (torch.arange(32).double() + 0.5) / 32)
    z = dt * linear[:, None] + around
    half = dt * ((z / 2).exp().sub(1) / z).mean(1).real
    first = dt * ((-4 - z + z.exp() * (4 - 3 * z + z**2)) / z**3).mean(1).real
    middle = dt * ((2 + z + z.exp() * (z - 2)) / z**3).mean(1).real
    last = dt * ((-4 - 3 * z - z**2 + z.exp() * (4 - z)) / z**3).mean(1).real
    flux = torch.where(inside, -0.5j * k, 0)

    def slope(modes: Tensor) -> Tensor:
        return flux * torch.fft.rfft(torch.fft.irfft(modes, GRID).square())

    def step(u: Tensor) -> Tensor:
        modes = torch.where(inside, torch.fft.rfft(u), 0)
        one = slope(modes)
        a = half_step * modes + half * one
        two = slope(a)
        three = slope(half_step * modes + half * two)
        four = slope(half_step * a + half * (2 * three - one))
        modes = whole_step * modes + first * one + 2 * middle * (two + three) + last * four
        return torch.fft.irfft(modes, GRID)

    return step


def _smoothed(u: Tensor) -> Tensor:
    """The slow waves of noise, without its mean, which would stay for ever."""
    modes = torch.fft.rfft(u)
    modes[:, 0] = 0
    modes[:, 9:] = 0
    return torch.fft.irfft(modes, u.shape[1])
