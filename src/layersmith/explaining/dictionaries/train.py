"""Train a dictionary from a stream of rows. Killed anywhere, it goes on where it was and ends in the same bits.

A stream is a function: step -> (what is read, what is to be written), (batch, D) each, the same for the same step
whenever it is asked. So a run that resumes needs nothing of the stream but the number of its next step. All else it
needs is one file of the workspace: weights, moments of the optimiser, when each feature was last active.

Decoder rows keep norm 1: the part of their gradient along them is taken out, and they are normalised after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.errors import UserError
from layersmith.explaining.dictionaries.losses import gate_error, losses, revival
from layersmith.explaining.dictionaries.recipe import Recipe
from layersmith.ffn.sparse_dictionary import SparseDictionary
from layersmith.runs.identity import digest_of
from layersmith.runs.workspace import Workspace

Stream = Callable[[int], tuple[Tensor, Tensor]]

#: Batches that scales, means and the decoder's first directions are taken from.
FIRST = 4
#: Weight of the dead features' error (arXiv 2406.04093).
REVIVAL = 1 / 32
#: First weight of the sparsity penalty, and how far it follows the number of active features: over a whole run in which
#: e times too many are active, by this power of e.
PRESSURE, STEER = 0.1, 4.0
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def shuffled(inputs: Tensor, outputs: Tensor, batch: int, seed: int) -> Stream:
    """The stream of rows (N, D) in an order of its own for each pass; what does not fill a batch waits for the next."""
    batch = min(batch, len(inputs))
    each = len(inputs) // batch
    kept: dict[int, Tensor] = {}

    def stream(step: int) -> tuple[Tensor, Tensor]:
        turn, place = divmod(step, each)
        if turn not in kept:
            kept.clear()
            draw = torch.Generator().manual_seed(seed * 1_000_003 + turn)
            kept[turn] = torch.randperm(len(inputs), generator=draw, device="cpu").to(inputs.device)
        rows = kept[turn][place * batch : (place + 1) * batch]
        return inputs[rows], outputs[rows]

    return stream


def train(
    stream: Stream,
    recipe: Recipe,
    workspace: Workspace | None = None,
    name: str = "dictionary",
    tell: Callable[[float], None] = lambda share: None,
    keep_every: int = 200,
) -> SparseDictionary:
    """The trained dictionary, in evaluation mode.

    workspace   where the state is kept every `keep_every` steps, under `name` and the recipe; None keeps nothing
    tell        is told the share that is done
    Raises UserError when the rows are not finite.
    """
    training = Training(stream, recipe)
    file = f"{name}/{digest_of(asdict(recipe))}"
    kept = None if workspace is None else workspace.load_tensors(file)
    if kept is not None:
        training.restore(kept)
    while training.done < recipe.steps:
        training.step()
        if workspace is not None and (training.done % keep_every == 0 or training.done == recipe.steps):
            workspace.save_tensors(file, training.state())
        tell(training.done / recipe.steps)
    return training.dictionary.eval().requires_grad_(False)


class Training:
    """A dictionary while it is trained: `step` until `done` is what the recipe says."""

    def __init__(self, stream: Stream, recipe: Recipe):
        self.stream, self.recipe, self.done = stream, recipe, 0
        batches = [stream(step) for step in range(FIRST)]
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
            raise UserError("What the site reads or writes on this text is not finite. Load the model in float32.")
        self.dictionary = fresh(x, y, recipe).train()
        self.variance = (y - y.mean(0)).square().sum(-1).mean().clamp_min(1e-30)
        self.optimizer = torch.optim.Adam(self.dictionary.parameters(), lr=recipe.lr, betas=(0.9, 0.999), fused=True)
        device = x.device
        self.silent = torch.zeros(len(self.dictionary.decoder), dtype=torch.int64, device=device)
        self.pressure = torch.tensor(PRESSURE, dtype=torch.float64)

    @torch.enable_grad()
    def step(self) -> None:
        x, y = self.stream(self.done)
        part = self.dictionary
        found = losses(part, x, y, self.variance)
        loss = found.error
        if found.penalty is not None:
            loss = loss + float(self.pressure) * found.penalty
            self._steer(float(found.active))
        if part.activation == "gated":
            loss = loss + gate_error(part, found.rows, y, self.variance)
        dead = (self.silent > self.recipe.dead_after).nonzero()[:, 0]
        if len(dead):
            loss = loss + REVIVAL * revival(part, found, dead)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._apply()
        self.silent = torch.where(found.fired, 0, self.silent + len(x))
        self.done += 1

    @torch.no_grad()
    def _apply(self) -> None:
        decoder = self.dictionary.decoder
        assert decoder.grad is not None
        decoder.grad.sub_((decoder.grad * decoder).sum(-1, keepdim=True) * decoder)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * schedule(self.done, self.recipe.steps)
        self.optimizer.step()
        decoder.copy_(F.normalize(decoder, dim=-1))
        if self.dictionary.activation == "jumprelu":
            self.dictionary.threshold.clamp_(min=0)

    def _steer(self, active: float) -> None:
        ratio = math.log(max(active, 0.1) / self.recipe.k)
        self.pressure *= math.exp(STEER / self.recipe.steps * max(-3.0, min(3.0, ratio)))

    def state(self) -> dict[str, Tensor]:
        """Everything a later `restore` needs to go on in the same bits."""
        kept = {f"weights.{name}": tensor for name, tensor in self.dictionary.state_dict().items()}
        for name, parameter in self.dictionary.named_parameters():
            for moment in MOMENTS:
                kept[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
        return {**kept, "silent": self.silent, "pressure": self.pressure, "done": torch.tensor(self.done)}

    def restore(self, kept: dict[str, Tensor]) -> None:
        device = self.silent.device
        weights = {name: kept[f"weights.{name}"] for name in self.dictionary.state_dict()}
        self.dictionary.load_state_dict(weights)
        for name, parameter in self.dictionary.named_parameters():
            moments: dict[str, Any] = {moment: kept[f"{moment}.{name}"].to(device) for moment in MOMENTS}
            self.optimizer.state[parameter] = moments
        self.silent, self.pressure = kept["silent"].to(device), kept["pressure"]
        self.done = int(kept["done"])


def schedule(step: int, steps: int) -> float:
    """The share of the highest learning rate: up over the first twentieth, down to zero over the last fifth."""
    up = max(1, steps // 20)
    down = max(1, steps // 5)
    return min(1.0, (step + 1) / up, (steps - step) / down)


@torch.no_grad()
def fresh(x: Tensor, y: Tensor, recipe: Recipe) -> SparseDictionary:
    """A dictionary that has learned nothing but the scales and means of these rows (N, D), and their best linear map.

    A transcoder's decoder rows point to where that map sends what their features read; an autoencoder's are the
    encoder's own.
    """
    width = x.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        part = SparseDictionary(
            width,
            recipe.expansion * width,
            recipe.k,
            recipe.activation,
            skip=recipe.kind == "skip_transcoder",
            centred=recipe.kind == "sae",
        ).to(x.device)
    part.input_scale.fill_(scale_of(x))
    part.output_scale.fill_(scale_of(y))
    part.bias.copy_(y.mean(0) * part.output_scale)
    if recipe.kind == "sae":
        return part
    mean = x.mean(0) * part.input_scale
    part.encoder.bias.copy_(-part.encoder.weight @ mean)
    read = (x * part.input_scale - mean).double()
    written = (y - y.mean(0)).double()
    gram = read.T @ read
    damped = gram + 1e-2 * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(width, dtype=gram.dtype, device=x.device)
    directions = part.encoder.weight.double() @ torch.linalg.solve(damped, read.T @ written)
    if float(directions.norm(dim=-1).min()) > 0:  # outputs that never change have no direction
        part.decoder.copy_(F.normalize(directions, dim=-1))
    return part


def scale_of(rows: Tensor) -> float:
    """The power of two that brings the mean norm of rows (N, D) nearest to sqrt(D); 1 for rows of zeros."""
    norm = float(rows.norm(dim=-1).double().mean())
    return 2.0 ** round(math.log2(rows.shape[1] ** 0.5 / norm)) if norm > 0 else 1.0
