"""Certified bounds: within which limits a feed-forward's outputs stay when its input moves by at most so much.

Around some of the inputs that the site sees on held-out data lies a ball of a given radius (a share of the input's
length). `bounding/chain.py` bounds every output over it in three ways: intervals (IBP), CROWN forward and CROWN
backward. Beside them stands what random points of the ball reach: the truth lies between. That no sample leaves its
bounds is counted, not assumed.

Papers: "Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond". Differs: single feed-forwards
over one ball of the 2-norm, not whole graphs over sets of any kind; no training with the bounds, and so no fused loss.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy import Site
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.bounding.chain import Ball, Bounded, backward, chain_of, forward, interval
from layersmith.explaining.capture import joined, watching
from layersmith.explaining.recognised import ffn_at
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.divergence import run

WAYS = {"interval": interval, "forward": forward, "backward": backward}


class Bounds(Survey):
    name = "bounds"
    summary = "Within which limits a feed-forward's outputs stay while its input moves within a ball."
    papers = ("automatic-perturbation-analysis-scalable-certified",)
    settings: ClassVar[Settings] = {"radius": 0.01, "points": 8, "samples": 10_000}

    def check(self, settings: Settings) -> None:
        if not settings["radius"] > 0:
            raise UserError(f"The radius is a share of the input's length above 0, not {settings['radius']}.")
        for name in ("points", "samples"):
            if settings[name] < 1:
                raise UserError(f"The setting {name} must be at least 1, not {settings[name]}.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        sites = [site for site in subject.sites if site.kind == "ffn"]
        if not sites:
            raise UserError("Bounds are those of feed-forwards, and none is among the sites asked for.")
        found: dict[str, Any] = {}
        left_out: dict[str, str] = {}
        for index, site in enumerate(sites):
            kept = subject.workspace.load_json(f"bounds/{site.name}")
            if kept is None:
                kept = _of_site(subject, site, settings)
                subject.workspace.save_json(f"bounds/{site.name}", kept)
            if "why" in kept:
                left_out[site.name] = kept["why"]
            else:
                found[site.name] = kept
            subject.tell("bounding feed-forwards", index + 1, len(sites))
        if not found:
            name, why = next(iter(left_out.items()))
            raise UserError(f"No feed-forward here can be bounded. {name}: {why}.")
        return {"sites": found, "left_out": left_out, "sections": _sections(found, left_out, settings)}


def _of_site(subject: Subject, site: Site, settings: Settings) -> dict[str, Any]:
    """Mean widths of the bounds, what samples reach, and how many leave the bounds; or why there are none."""
    operator = ffn_at(subject.model, site)
    if operator is None:
        return {"why": "it is no plain or gated feed-forward of two layers that is recognised"}
    chain = chain_of(operator)
    if chain is None:
        return {"why": "the curvature of its activation is not known here"}
    exact = copy.deepcopy(operator).double()
    centres = _inputs(subject, site, settings["points"])
    ball = Ball(centres, settings["radius"] * centres.norm(dim=-1))
    sums = dict.fromkeys((*WAYS, "sampled"), 0.0)
    outside = 0
    for point in range(len(centres)):
        one = Ball(ball.centre[point : point + 1], ball.radius[point : point + 1])
        bounds = {name: way(chain, one) for name, way in WAYS.items()}
        low, high, left = _sampled(exact, one, bounds, settings["samples"] // len(centres) + 1, point)
        for name, bounded in bounds.items():
            sums[name] += float(bounded.width[0]) / len(centres)
        sums["sampled"] += float((high - low).mean()) / len(centres)
        outside += left
    with torch.no_grad():
        size = float(exact(centres).abs().mean())
    return {"widths": sums, "outside": outside, "output": size, "samples": settings["samples"]}


def _inputs(subject: Subject, site: Site, points: int) -> Tensor:
    """(points, D) float64: inputs of the site, evenly over the first held-out batch."""
    batch = subject.judge[0]
    with watching(subject.model, site, batch) as calls, evaluating(subject.model):
        run(subject.model, batch)
    rows = joined(calls)["inputs"]
    return rows[torch.linspace(0, len(rows) - 1, min(points, len(rows)), device="cpu").long()].double()


@torch.no_grad()
def _sampled(
    operator: Any, ball: Ball, bounds: dict[str, Bounded], samples: int, seed: int
) -> tuple[Tensor, Tensor, int]:
    """The least and largest outputs (D,) at random points of one ball, and how many points leave any of the bounds."""
    draws = torch.Generator().manual_seed(seed)
    steps = torch.randn(samples, ball.centre.shape[-1], generator=draws, dtype=torch.float64, device="cpu").to(
        ball.centre
    )
    # Half on the surface, half inside.
    length = torch.rand(samples, 1, generator=draws, dtype=torch.float64, device="cpu").to(ball.centre)
    length[: samples // 2] = 1.0
    y = operator(ball.centre + ball.radius[:, None] * length * steps / steps.norm(dim=-1, keepdim=True))
    left = torch.zeros(samples, dtype=torch.bool, device=y.device)
    for bounded in bounds.values():
        left |= ((y < bounded.low) | (y > bounded.high)).any(-1)
    return y.amin(0), y.amax(0), int(left.sum())


def _sections(found: dict[str, Any], left_out: dict[str, str], settings: Settings) -> list[Section]:
    rows = [
        [name, *(row["widths"][way] for way in (*WAYS, "sampled")), row["output"], row["outside"]]
        for name, row in found.items()
    ]
    told = (
        f"Mean width of the bounds of an output while the input moves by at most {settings['radius']:.3g} of its "
        f"length, around {settings['points']} held-out inputs. Sampled: what {settings['samples']:,} random points "
        f"reach, which the truth exceeds; outside: how many of them leave the bounds."
    )
    told += "".join(f" {name} is left out: {why}." for name, why in left_out.items())
    columns = ("site", "intervals", "CROWN forward", "CROWN backward", "sampled", "mean |output|", "outside")
    return [table("Certified bounds", columns, rows, told)]
