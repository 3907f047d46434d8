"""Activation patching: what each site's output alone does to the answer. Works at every site of every model.

    resample   the clean prompt, with the site's output on the corrupt one
    mean       the clean prompt, with the mean of the site's outputs over the corrupt ones, position by position
    zero       the clean prompt, with an output of zeros
    restored   the corrupt prompt, with the site's output on the clean one

All in shares of the distance between the two prompts: (m - m_corrupt) / (m_clean - m_corrupt), m the mean log-odds of
the answer. Nothing was lost at 1, everything at 0; `restored` is 0 where the site says nothing of the answer.
For a block the output is the stream that leaves it, whose patch at the last block is that of the whole prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy import Site
from layersmith.anatomy.running import evaluating
from layersmith.explaining.circuits.prompts import Prompts
from layersmith.explaining.survey import Tell
from layersmith.measuring.divergence import main_output, run

WAYS = ("resample", "mean", "zero", "restored")


def effects(model: Any, sites: Sequence[Site], prompts: Sequence[Prompts], tell: Tell) -> dict[str, dict[str, float]]:
    """Site -> way -> mean log-odds (nats) with that one output replaced; "clean" and "corrupt" -> "whole"."""
    sums = {site.name: dict.fromkeys(WAYS, 0.0) for site in sites}
    ends = {"clean": {"whole": 0.0}, "corrupt": {"whole": 0.0}}
    pairs = sum(len(each.where) for each in prompts)
    for index, batch in enumerate(prompts):
        with evaluating(model):
            clean, odds = watched(model, sites, batch, batch.clean)
            ends["clean"]["whole"] += float(odds.sum()) / pairs
            corrupt, odds = watched(model, sites, batch, batch.corrupt)
            ends["corrupt"]["whole"] += float(odds.sum()) / pairs
            for number, site in enumerate(sites):
                other, own = corrupt[site.name], clean[site.name]
                put = {
                    "resample": other,
                    "mean": [y.mean(0, keepdim=True).expand_as(y) for y in other],
                    "zero": [torch.zeros_like(y) for y in own],
                    "restored": own,
                }
                for way, outputs in put.items():
                    inputs = batch.corrupt if way == "restored" else batch.clean
                    odds = patched(model, site, outputs, batch, inputs)
                    sums[site.name][way] += float(odds.sum()) / pairs
                tell("patching sites", index * len(sites) + number + 1, len(prompts) * len(sites))
    return {**ends, **sums}


def shares(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Site -> way -> share of the distance between the prompts; None where they give the same answer."""
    low, high = found["corrupt"]["whole"], found["clean"]["whole"]
    return {
        site: {way: share(value, low, high) for way, value in ways.items()}
        for site, ways in found.items()
        if site not in ("clean", "corrupt")
    }


def share(value: float, low: float, high: float) -> float | None:
    return None if abs(high - low) < 1e-6 else (value - low) / (high - low)


def watched(
    model: Any, sites: Sequence[Site], prompts: Prompts, inputs: dict[str, Tensor]
) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Site -> its output at each of its calls (B, T, D), and the log-odds (B,)."""
    calls: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def keeper(name: str) -> Any:
        def keep(module: Any, args: Any, output: Any) -> None:
            calls[name].append(output[0] if isinstance(output, tuple | list) else output)

        return keep

    handles = [model.get_submodule(s.modules[-1]).register_forward_hook(keeper(s.name)) for s in sites]
    try:
        return calls, prompts.log_odds(prompts.at_answer(main_output(run(model, inputs))))
    finally:
        for handle in handles:
            handle.remove()


def patched(model: Any, site: Site, outputs: list[Tensor], prompts: Prompts, inputs: dict[str, Tensor]) -> Tensor:
    """The log-odds (B,) on the inputs, with `outputs`, one for each call, in place of what the site gives."""
    waiting = iter(outputs)

    def put(module: Any, args: Any, output: Any) -> Any:
        new = next(waiting)
        return type(output)((new, *output[1:])) if isinstance(output, tuple | list) else new

    handle = model.get_submodule(site.modules[-1]).register_forward_hook(put)
    try:
        return prompts.log_odds(prompts.at_answer(main_output(run(model, inputs))))
    finally:
        handle.remove()
