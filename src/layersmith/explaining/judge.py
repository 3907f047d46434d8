"""One table for every explanation: how faithful it is in the sublayer's place, beside the floors and the control.

All figures are of held-out data, on which nothing was fitted.

    local_error      ||y - y'||^2 / ||y||^2 over real tokens; 1 is what an output of zeros scores
    divergence       KL of the model's predictions from the original's, in nats (or a relative squared error)
    agreement        share of predictions whose most likely answer is the original's
    loss             next-token loss in nats; for models that predict no next token the divergence stands for it
    loss_recovered   (loss with zeros - loss) / (loss with zeros - original loss): 1 is the original, 0 no output
    loss_recovered_from_mean   the same, against the mean output
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.swap import swap
from layersmith.contract import FeedForward
from layersmith.errors import UserError
from layersmith.explaining.capture import joined, watching
from layersmith.explaining.floors import params_of
from layersmith.measuring.divergence import Divergence, main_output, real_positions, run
from layersmith.measuring.inputs import is_causal_lm
from layersmith.measuring.quality import TextLoss

Row = dict[str, Any]

FLOORS = {"zero": "no output", "mean": "the mean output", "linear": "one matrix", "rank_r": "a thin pair of matrices"}

#: A control that scores less than this share of the mean floor's local error has learned what was shuffled away.
AT_THE_FLOOR = 0.95


class TokenWise(FeedForward):
    """Any token-wise module, called like one of our operators: so it may stand at any site.

    It works in the dtype of its own weights and answers in that of the stream.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.module: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        floats = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        y = self.module(x.to(next(floats, x.dtype)))
        return (y[0] if isinstance(y, tuple | list) else y).to(x.dtype)


def standing_for(site: Site, module: nn.Module) -> TokenWise:
    """The module as what `swap` may put at the site."""
    placed = TokenWise(site.d_model)
    placed.module = module
    return placed


@dataclass
class _Totals:
    """What adds up over batches for one module."""

    distance: Divergence = field(default_factory=Divergence)
    text: TextLoss = field(default_factory=TextLoss)
    wrong: float = 0.0

    def loss(self) -> float:
        perplexity = self.text.perplexity
        return self.distance.value if perplexity is None else math.log(perplexity)


@torch.no_grad()
def judge(
    model: Any,
    anatomy: Anatomy,
    site: Site,
    modules: dict[str, nn.Module],
    batches: list[dict[str, Tensor]],
    tell: Callable[[str, int, int], None],
) -> dict[str, Row]:
    """The figures of each module in the site's place. `modules` must hold "zero" and "mean"."""
    original, totals = _Totals(), {name: _Totals() for name in modules}
    length = 0.0
    for index, batch in enumerate(batches):
        with evaluating(model):
            with watching(model, site, batch) as calls:
                teacher = run(model, batch)
            rows = joined(calls)
            length += float(rows["outputs"].double().square().sum())
            _add(original, teacher, teacher, batch, is_causal_lm(model))
            for name, module in modules.items():
                placed = standing_for(site, module)
                difference = placed(rows["inputs"]).double() - rows["outputs"].double()
                if not torch.isfinite(difference).all():
                    raise UserError(
                        f"What explains {site.name} ({name}) yields NaN or infinity on held-out data, so it cannot "
                        f"be judged. Fit it to more text (--tokens), or with smaller steps."
                    )
                totals[name].wrong += float(difference.square().sum())
                with swap(model, {site: placed}, anatomy):
                    _add(totals[name], teacher, run(model, batch), batch, is_causal_lm(model))
        tell(f"judging {site.name}", index + 1, len(batches))
    losses = {name: total.loss() for name, total in totals.items()}
    return {
        name: {
            "local_error": total.wrong / max(length, 1e-30),
            "divergence": total.distance.value,
            "agreement": total.distance.agreement,
            "loss": losses[name],
            "loss_recovered": _recovered(losses["zero"], losses[name], original.loss()),
            "loss_recovered_from_mean": _recovered(losses["mean"], losses[name], original.loss()),
            "params": params_of(modules[name]),
        }
        for name, total in totals.items()
    }


def _add(total: _Totals, teacher: Any, student: Any, batch: dict[str, Tensor], writes: bool) -> None:
    mask = real_positions(batch)
    total.distance.add(teacher, student, mask)
    if writes:
        total.text.add(main_output(student), batch["input_ids"], mask)


def _recovered(ablated: float, found: float, original: float) -> float | None:
    """None where the ablated model is no worse than the original: nothing is lost, so nothing can be recovered."""
    return (ablated - found) / (ablated - original) if ablated > original else None


def verdicts(table: dict[str, Row]) -> list[str]:
    """What the table says, in words: whether the explanation beats the floors, and what the control shows."""
    found, control, mean = (table[name] for name in ("explanation", "shuffled", "mean"))
    beaten = {name: found["divergence"] < table[name]["divergence"] for name in FLOORS}
    best = min(FLOORS, key=lambda name: table[name]["divergence"])
    shown = best if beaten["linear"] else "linear"
    figures = f"divergence {found['divergence']:.4g} against {table[shown]['divergence']:.4g}"
    if all(beaten.values()):
        said = [f"It is more faithful than every floor, the best of which is {FLOORS[best]}: {figures}."]
    elif beaten["linear"]:
        said = [f"It beats the linear floor, but NOT {FLOORS[best]} ({figures})."]
    else:
        said = [f"It does NOT beat the linear floor: one matrix is as faithful, or more so ({figures})."]
    ratio = control["local_error"] / max(mean["local_error"], 1e-30)
    figures = f"its local error is {control['local_error']:.3g}, that of the mean output {mean['local_error']:.3g}"
    if ratio >= AT_THE_FLOOR:
        said.append(f"The shuffled control stands at the floor, as it must: {figures}.")
    else:
        said.append(
            f"The shuffled control does BETTER than a constant: {figures}. What this tool scores on this site is "
            f"not all explanation."
        )
    return said
