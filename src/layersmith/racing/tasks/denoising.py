"""Flow matching: from noisy points tell which way each has to go to become one of the data.

    z = (1 - t) x_0 + t x_1,    asked: v = x_1 - x_0        x_0 ~ N(0, I),   x_1 ~ N(m_c, spread^2 I),   t uniform

The m_c stand evenly on a circle of radius 2; the class c of a point is drawn anew for each, t once for all points of
an example. A position reads (z, t, one-hot of c). What it is told may be left out, and has to be inferred:

    told    False: no t. Many points tell it, for their spread does ("Is Noise Conditioning Necessary ...")
    drop    share of examples without classes ("Classifier-Free Diffusion Guidance")

With `epsilon` a pair counts by w = exp(-|x_1 - x_0|^2 / (2 epsilon)), so that short ways decide; score and loss are
weighted means then ("Weighted Conditional Flow Matching"). The oracle is E[w v | what is read] / E[w | what is read].

Papers: the three named above (the cost, and what of the classes is dropped, from memory).
Differs from the papers: points of two dimensions; nothing is sampled, so that guidance, which combines the outputs with
and without class then, is not here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import flag, number, whole
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.linear_map import linear_map

RADIUS = 2.0
#: Values of t that are summed over where it is not told.
STEPS = 100
PENALTY = 1e-6


class Denoising(Task):
    """
    tokens     points of an example
    n_classes  classes of points
    spread     standard deviation of a class
    told       whether t is read
    drop       share of examples without classes
    epsilon    of the weights; 0: all pairs count alike
    """

    name = "denoising"
    summary = "Tell which way noisy points have to go to become data (flow matching)."
    papers = (
        "noise-conditioning-necessary-denoising-generative",
        "weighted-conditional-flow-matching",
        "classifier-free-diffusion-guidance",
    )
    reads = "features"
    writes = "real"
    causal = False
    metric = "mean squared error"
    higher_is_better = False

    def __init__(
        self,
        tokens: int = 16,
        n_classes: int = 8,
        spread: float = 0.2,
        told: bool = True,
        drop: float = 0.2,
        epsilon: float = 0.0,
    ):
        self.tokens, self.n_classes = whole("tokens", tokens, 1), whole("n_classes", n_classes, 1)
        self.spread, self.told = number("spread", spread, 0.01, 10), flag("told", told)
        self.drop = number("drop", drop, 0, 1)
        self.epsilon = number("epsilon", epsilon, 0, 1e6)
        if 0 < epsilon < 0.1:
            raise ValueError(f"epsilon={epsilon} leaves next to no pair any weight: give 0.1 or more, or 0 for none.")
        self.n_inputs, self.n_outputs = 3 + n_classes, 2
        angles = 2 * math.pi * torch.arange(n_classes, device="cpu").double() / n_classes
        self.means = RADIUS * torch.stack([angles.cos(), angles.sin()], 1)

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        classes = torch.randint(self.n_classes, (size, self.tokens), generator=generator, device="cpu")
        start, noise = torch.randn(2, size, self.tokens, 2, generator=generator, device="cpu", dtype=torch.float64)
        end = self.means[classes] + self.spread * noise
        t = torch.rand(size, 1, 1, generator=generator, device="cpu", dtype=torch.float64)
        seen = torch.rand(size, 1, 1, generator=generator, device="cpu") >= self.drop
        inputs = torch.zeros(size, self.tokens, self.n_inputs)
        inputs[..., :2] = (1 - t) * start + t * end
        if self.told:
            inputs[..., 2:3] = t
        inputs[..., 3:] = torch.nn.functional.one_hot(classes, self.n_classes) * seen
        return Batch(inputs, (end - start).float())

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of a coordinate, weighted."""
        errors = (outputs - batch.targets).square().mean(-1)
        if not self.epsilon:
            return errors.mean()
        cost = batch.targets.square().sum(-1) / (2 * self.epsilon)
        return (errors.flatten() * torch.softmax(-cost.flatten(), 0)).sum()

    def yardsticks(self) -> dict[str, float]:
        """On 2048 examples, or 256 where t is not told. random: always 0; linear: least squares, without weights, from
        what a point's position reads."""
        batch = judged(self, 2048 if self.told else 256)
        train = self.batch(torch.Generator().manual_seed(0), 2048)
        xs, asked = (torch.cat([b.inputs, torch.ones_like(b.inputs[..., :1])], -1).double() for b in (train, batch))
        known = xs.flatten(0, 1)
        weights = linear_map(known, train.targets.flatten(0, 1).double(), PENALTY * len(known))
        found = {
            "random": torch.zeros_like(batch.targets),
            "linear": asked @ weights,
            "oracle": self.best(batch.inputs),
        }
        return {name: float(self.loss(guess, batch)) for name, guess in found.items()}

    def best(self, inputs: Tensor) -> Tensor:
        """The oracle's answer to inputs (B, T, n_inputs): (B, T, 2) float64."""
        inputs = inputs.double()
        z, classes = inputs[..., :2], inputs[..., 3:]
        seen = classes.any(-1)[..., None]
        log_prior = torch.where(seen, classes.log(), -math.log(self.n_classes))
        if self.told:
            return self._at(z, inputs[..., 2:3], log_prior)[0]
        total, weight = torch.zeros_like(z), torch.zeros_like(z[..., :1])
        likeliest = torch.full_like(weight, -torch.inf)
        for step in range(STEPS):
            t = torch.full_like(z[..., :1], (step + 0.5) / STEPS)
            answer, fits, counts = self._at(z, t, log_prior)
            # Points share t: all of them say how likely it is; the weight w of the point itself comes on top.
            log_weight = fits.sum(1, keepdim=True) + counts
            highest = torch.maximum(likeliest, log_weight)
            old, new = (likeliest - highest).exp(), (log_weight - highest).exp()
            total, weight, likeliest = total * old + answer * new, weight * old + new, highest
        return total / weight

    def _at(self, z: Tensor, t: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At a known t: E[w v | z] / E[w | z] (B, T, 2); log p(z) and log E[w | z], both (B, T, 1).

        Given z and its class, v is normal: with D the variance of z, its mean is m + (t s^2 - (1 - t)) / D (z - t m),
        its variance s^2 / D.
        """
        s = self.spread**2
        variance = (1 - t) ** 2 + t**2 * s
        away = z[..., None, :] - t[..., None] * self.means
        log_joint = log_prior - away.square().sum(-1) / (2 * variance) - variance.log() - math.log(2 * math.pi)
        mean = self.means + ((t * s - (1 - t)) / variance)[..., None] * away
        fits = log_joint.logsumexp(-1, keepdim=True)
        if not self.epsilon:
            chances = log_joint.softmax(-1)
            return (chances[..., None] * mean).sum(-2), fits, torch.zeros_like(fits)
        both = self.epsilon + s / variance
        log_weights = log_joint - mean.square().sum(-1) / (2 * both) + (self.epsilon / both).log()
        answer = (log_weights.softmax(-1)[..., None] * mean).sum(-2) * self.epsilon / both
        return answer, fits, log_weights.logsumexp(-1, keepdim=True) - fits
