"""Handwritten digits out of noise: flow matching on small pictures, and a sampler that draws with what was learned.

    z = (1 - t) n + t x,    asked: v = x - n        n ~ N(0, I),   x a picture in -1 .. 1,   t uniform

A picture is cut into square patches, each a position, which reads its pixels of z, t and four cosines of it, the class
as one-hot (left out for a share `drop` of the examples), and its place as one-hot. The oracle is the mean of v given
what is read, over the pictures of "test".

With a `sampler` what is judged is not v but what is drawn: pictures of evenly asked classes, by their Fréchet distance
to those of "test" ("distance"), or by the share whose nearest picture to train on has the class asked for ("read").
Entrants may differ in the sampler: {mixer: ..., task: {sampler: {name: tangential_damping, guidance: 2}}}. All draw
from the same noise. Curves are of the squared error still.

    plain                    Euler steps, guided where guidance is not 1
    tangential_damping       guidance without what of the unconditional answer disagrees with the conditional one
    base_prior               trained without classes (drop=1), tuned with them; guidance away from the base's answer
    stage_predictor          most steps foretell the last layer's features instead of running the layers
    extrapolation_refresh    most steps run shallow layers for some patches, and extrapolate what deep layers add
    affiner                  a frozen model takes on digits it has not seen (held > 0) by scales, shifts, low rank

Papers: "TCFG: Tangential Damping Classifier-free Guidance"; "Unconditional Priors Matter! ..."; "LESA: ..."; "HERO:
..."; "Diffscaler: ...". The file of each sampler says what of its paper it is.
Differs from the papers: pictures of 8 x 8 pixels and models trained in seconds; classes and times are read with the
pixels, not through adaptive norms.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.racing.samplers import Given, build_sampler
from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.digits import labelled
from layersmith.racing.tasks.shared.checks import number, one_of, whole
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.drawn_digits import drawn_digits
from layersmith.racing.tasks.shared.frechet import frechet

#: Cosines of the time that are read, besides the time.
WAVES = 4
MEASURES = ("distance", "read")
#: Seed of the noise that is drawn from.
SEED = 30


class Generation(Task):
    """
    data      "digits" (scikit-learn's), "drawn" (glyphs that need no file), or a folder of idx files
    patch     side of a patch in pixels
    drop      share of examples without their class
    held      classes, the last ones, that are not trained on; a sampler is asked for these
    sampler   what is drawn with: a name, or {"name": ..., settings}; None: what is judged is v
    measure   of drawings: "distance", or "read"
    drawings  how many are drawn
    """

    name = "generation"
    summary = "Draw handwritten digits from noise (flow matching); what is drawn may be judged, by several samplers."
    papers = (
        "tcfg-tangential-damping-classifier-free",
        "unconditional-priors-matter-improving-conditional",
        "lesa-learnable-stage-aware-predictors",
        "hero-hierarchical-extrapolation-refresh-efficient",
        "diffscaler-enhancing-generative-prowess-diffusion",
    )
    reads = "features"
    writes = "real"
    causal = False
    metric = "mean squared error"
    higher_is_better = False
    judging = ("sampler",)

    def __init__(
        self,
        data: str = "digits",
        patch: int = 2,
        drop: float = 0.1,
        held: int = 0,
        sampler: Given | None = None,
        measure: str = "distance",
        drawings: int = 512,
    ):
        self.pictures = drawn_digits() if data == "drawn" else labelled(data)
        self.patch, self.drop = whole("patch", patch, 1), number("drop", drop, 0, 1)
        height, width = self.pictures["train"][0].shape[1:]
        if height % patch or width % patch:
            raise ValueError(f"patch={patch} does not divide pictures of {height} x {width}: give a side that does.")
        self.n_classes = 1 + int(max(labels.max() for _, labels in self.pictures.values()))
        self.held = whole("held", held, 0, self.n_classes - 1)
        self.sampler = sampler
        self.measure, self.drawings = one_of("measure", measure, MEASURES), whole("drawings", drawings, 2)
        self.grid, self.n_outputs = (height // patch, width // patch), patch**2
        self.tokens = self.grid[0] * self.grid[1]
        self.n_inputs = self.n_outputs + 1 + WAVES + self.n_classes + self.tokens
        if sampler is not None:
            build_sampler(sampler)
            self.metric = "Fréchet distance of drawings" if measure == "distance" else "share of drawings read as asked"
            self.higher_is_better = measure == "read"

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        return self.noisy(generator, size, self.examples(split, held=False), self.drop)

    def noisy(self, generator: torch.Generator, size: int, examples: tuple[Tensor, Tensor], drop: float) -> Batch:
        """`size` of the pictures (n, T, patch^2), each mixed with noise, of labels (n,), some without."""
        pictures, labels = examples
        picked = torch.randint(len(labels), (size,), generator=generator, device="cpu")
        noise = torch.randn(size, *pictures.shape[1:], generator=generator, device="cpu")
        t = torch.rand(size, generator=generator, device="cpu")
        seen = torch.rand(size, generator=generator, device="cpu") >= drop
        x, classes = pictures[picked], labels[picked].where(seen, torch.full_like(picked, -1))
        mixed = (1 - t)[:, None, None] * noise + t[:, None, None] * x
        return Batch(self.inputs(mixed, t, classes), x - noise)

    def inputs(self, z: Tensor, t: Tensor | float, classes: Tensor | None) -> Tensor:
        """What a model reads of z (B, T, patch^2) at the time t, a number or (B,); classes (B,), -1 for none."""
        times = torch.as_tensor(t, dtype=z.dtype, device=z.device).expand(len(z))[:, None]
        waves = (math.pi * times * torch.arange(1, WAVES + 1, device=z.device)).cos()
        known = torch.full((len(z),), -1, device=z.device) if classes is None else classes
        told = F.one_hot(known + 1, self.n_classes + 1)[:, 1:].to(z.dtype)
        common = torch.cat([times, waves, told], 1)[:, None].expand(-1, self.tokens, -1)
        places = torch.eye(self.tokens, dtype=z.dtype, device=z.device).expand(len(z), -1, -1)
        return torch.cat([z, common, places], -1)

    def examples(self, split: Split, held: bool) -> tuple[Tensor, Tensor]:
        """Pictures (n, T, patch^2) in -1 .. 1 and labels (n,) of the classes that are trained on, or held back."""
        pictures, labels = self.pictures[split]
        chosen = (labels >= self.n_classes - self.held) == held
        p = self.patch
        patches = (2 * pictures[chosen] - 1).unfold(1, p, p).unfold(2, p, p).flatten(3).flatten(1, 2)
        return patches, labels[chosen]

    def asked(self, split: Split) -> tuple[Tensor, Tensor]:
        """Pictures and labels of the classes that a sampler is to draw: those held back, or all if there are none."""
        return self.examples(split, held=self.held > 0)

    def check(self, model: nn.Module) -> None:
        if self.sampler is not None:
            build_sampler(self.sampler).check(model, self)

    def made(self, model: nn.Module) -> float | None:
        """What is drawn with the trained model, judged; None without a sampler."""
        if self.sampler is None:
            return None
        sampler = build_sampler(self.sampler)
        generator = torch.Generator().manual_seed(SEED)
        noise = torch.randn(self.drawings, self.tokens, self.n_outputs, generator=generator, device="cpu")
        asked = self.held or self.n_classes
        classes = self.n_classes - asked + torch.arange(self.drawings, device="cpu") % asked
        learned = sampler.learn(model, self)
        with torch.no_grad():
            return self.judge(sampler.draw(learned, self, noise, classes), classes)

    def judge(self, drawings: Tensor, classes: Tensor) -> float:
        """Of drawings (n, T, patch^2) of the classes asked for, by the measure."""
        if self.measure == "distance":
            return frechet(drawings.flatten(1), self.asked("test")[0].flatten(1))
        pictures, labels = self.asked("train")
        nearest = torch.cdist(drawings.double().flatten(1), pictures.double().flatten(1)).argmin(1)
        return float((labels[nearest] == classes).double().mean())

    def yardsticks(self) -> dict[str, float]:
        """Of v, on 2048 examples: random: always 0; oracle. Of drawings: random: noise; real: pictures to train on."""
        if self.sampler is not None:
            pictures, labels = self.asked("train")
            noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(SEED), device="cpu")
            chance = 1 / (self.held or self.n_classes)
            random = self.judge(noise, labels) if self.measure == "distance" else chance
            return {"random": random, "real": self.judge(pictures, labels)}
        batch = judged(self)
        found = {"random": torch.zeros_like(batch.targets), "oracle": self.best(batch.inputs)}
        return {name: self.score(guess, batch) for name, guess in found.items()}

    def best(self, inputs: Tensor) -> Tensor:
        """The oracle's answer to inputs (B, T, n_inputs): (B, T, patch^2) float64.

        Given the picture x, the noise is (z - t x) / (1 - t): each x counts by its density, and by its class where that
        is told; v is (x - z) / (1 - t).
        """
        pictures, labels = self.examples("test", held=False)
        rows, first = inputs.double(), inputs[:, 0].double()
        z, x = rows[..., : self.n_outputs].flatten(1), pictures.double().flatten(1)
        t = first[:, self.n_outputs, None]
        told = first[:, self.n_outputs + 1 + WAVES :][:, : self.n_classes]
        away = z.square().sum(1, keepdim=True) - 2 * t * z @ x.T + t.square() * x.square().sum(1)
        logits = -away / (2 * (1 - t).clamp_min(1e-6).square())
        other = told.any(1, keepdim=True) & (told[:, labels] == 0)
        mean = logits.masked_fill(other, -torch.inf).softmax(1) @ x
        return ((mean - z) / (1 - t).clamp_min(1e-6)).reshape(len(rows), self.tokens, -1)
