"""Which channels a feed-forward listens to: a KAN is fitted to it, and its edges tell how much each input counts.

    y ~ n + s * KAN((x - m) / t)          means and spreads of the channels taken off, one inner layer of 2 D + 1 sums

Inputs are ranked in four ways (`measures/edges.py`): by the size of the functions on their edges (l1, l2), by the slope
of the output, and by what it costs to cut them off. Beside the KAN stand, as controls, the same KAN with the edges of
all but the share `keep` of its inputs cut: the first by each ranking, and as many drawn at random.

Paper: "Splines-Based Feature Importance in Kolmogorov-Arnold Networks: A Framework for Supervised Tabular Data
Dimensionality Reduction", which has tables for its data.
Differs from the paper: outputs are those of a sublayer; what was cut is not fitted anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.explaining.dictionaries.train import shuffled
from layersmith.explaining.measures.edges import SCORES, importance
from layersmith.explaining.sections import table
from layersmith.explaining.tool import Explanation, Observed, Settings, Tool
from layersmith.ffn.kan import KAN

#: Rows that inputs are ranked on, and channels that the report lists.
ROWS, LISTED = 1024, 30


class Edges(Tool):
    name = "edges"
    summary = "Which channels count, by the edges of a Kolmogorov-Arnold network (KAN) fitted to the sublayer."
    kinds = ("ffn",)
    papers = ("splines-based-feature-importance-kolmogorov",)
    settings: ClassVar[Settings] = {
        "hidden": 0,
        "size": 5,
        "steps": 300,
        "batch": 256,
        "lr": 1e-2,
        "keep": 0.4,
        "seed": 0,
    }

    def check(self, settings: Settings) -> None:
        for name, least in (("hidden", 0), ("size", 4), ("steps", 1), ("batch", 1)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")
        if not 0 < settings["lr"] < 10:
            raise UserError(f"The setting lr must lie above 0 and below 10, not {settings['lr']}.")
        if not 0 < settings["keep"] < 1:
            raise UserError(f"The setting keep is a share between 0 and 1, not {settings['keep']}.")

    def explain(self, observed: Observed, settings: Settings, tell: Callable[[float], None]) -> Explanation:
        width = observed.inputs.shape[-1]
        if observed.outputs.shape[-1] != width:
            raise UserError("The site writes another width than it reads, so nothing stands in its place.")
        fitted = fit(observed.inputs.float(), observed.outputs.float(), settings, tell)
        x, y = observed.inputs[:ROWS].float(), observed.outputs[:ROWS].float()
        scores = importance(fitted.kan, fitted.read(x), fitted.targets(y))
        count = max(1, round(settings["keep"] * width))
        kept = {f"first {count} by {name}": score.topk(count).indices for name, score in scores.items()}
        draw = torch.Generator().manual_seed(settings["seed"])
        kept[f"{count} at random"] = torch.randperm(width, generator=draw, device="cpu")[:count]
        controls: dict[str, nn.Module] = {name: cut_to(fitted, indices.tolist()) for name, indices in kept.items()}
        order = scores["knockout"].argsort(descending=True).tolist()
        rows = [[f"channel {i}", *(float(scores[name][i]) for name in SCORES)] for i in order[:LISTED]]
        text = (
            f"Shares of all {width} channels, the first {len(rows)} by what cutting them off costs. l1, l2: mean and "
            f"root mean square of what a channel adds to the inner sums; sensitivity: mean slope of the outputs."
        )
        pages = {
            "importance": {name: score.tolist() for name, score in scores.items()},
            "sections": [table("Channels", ["", *SCORES], rows, text)],
        }
        return Explanation(fitted, {"channels": float(width)}, pages, controls)


class Fitted(nn.Module):
    """A KAN between the scales of what enters and of what leaves."""

    in_mean: Tensor
    in_spread: Tensor
    out_mean: Tensor
    out_spread: Tensor

    def __init__(self, kan: KAN, inputs: Tensor, outputs: Tensor):
        super().__init__()
        self.kan = kan
        for name, rows in (("in", inputs), ("out", outputs)):
            self.register_buffer(f"{name}_mean", rows.mean(0))
            self.register_buffer(f"{name}_spread", rows.std(0, correction=0).clamp_min(1e-6))

    def read(self, x: Tensor) -> Tensor:
        return (x - self.in_mean) / self.in_spread

    def targets(self, y: Tensor) -> Tensor:
        return (y - self.out_mean) / self.out_spread

    def forward(self, x: Tensor) -> Tensor:
        return self.kan(self.read(x)) * self.out_spread + self.out_mean


def fit(inputs: Tensor, outputs: Tensor, settings: Settings, tell: Callable[[float], None]) -> Fitted:
    """The KAN of least squared error by Adam; rows (N, D) each, in an order of its own for each pass."""
    width = inputs.shape[-1]
    hidden = settings["hidden"] or 2 * width + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        kan = KAN(width, hidden, size=settings["size"]).to(inputs.device)
    fitted = Fitted(kan, inputs, outputs).to(inputs.device)
    optimizer = torch.optim.Adam(kan.parameters(), lr=settings["lr"])
    steps = settings["steps"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = shuffled(fitted.read(inputs), fitted.targets(outputs), settings["batch"], settings["seed"])
    with torch.enable_grad():
        for step in range(steps):
            x, y = stream(step)
            optimizer.zero_grad()
            (kan(x) - y).square().mean().backward()
            optimizer.step()
            schedule.step()
            tell((step + 1) / steps)
    return fitted.eval().requires_grad_(False)


@torch.no_grad()
def cut_to(fitted: Fitted, inputs: list[int]) -> Fitted:
    """A copy in which the edges of all other inputs are 0."""
    copied = copy.deepcopy(fitted)
    others = [i for i in range(len(copied.in_mean)) if i not in set(inputs)]
    copied.kan.up.base.weight[:, others] = 0.0
    copied.kan.up.coefficients[:, others] = 0.0
    return copied
