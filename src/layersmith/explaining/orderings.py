"""How much an answer depends on the order of its evidence, where the order should say nothing.

The end of a passage is the answer, and the token before it stays where it is, for it asks. All before that is the
evidence, cut into n pieces of one length. For orders pi of the pieces:

    mean       - E_pi log p(answer | evidence in the order pi), in nats a token
    mixture    - log E_pi p(answer | ...), for one token of it: never more than the mean, by Jensen's inequality
    dispersion the standard deviation over pi of log p(answer | ...), for one token of it

and over n = 2, 4, ... the line dispersion = a + b ln n, fitted by least squares. A model that sees its evidence as a
set has the dispersion 0.

Paper: "Predictable Compression Failures: Why Language Models Actually Hallucinate" (the mixture over orders, and the
line in ln n). Differs: pieces of text instead of retrieved passages; its rule of when to abstain is not here.
"""

from __future__ import annotations

import math
from itertools import islice, permutations
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.passages import check_foretells, logits_of, unpadded
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings

KEYS = ("mean", "mixture", "dispersion")


class Orderings(Survey):
    name = "orderings"
    summary = "How much a language model's answer depends on the order of the evidence before it."
    papers = ("predictable-compression-failures",)
    settings: ClassVar[Settings] = {"pieces": 8, "orders": 8, "answer": 8}

    def check(self, settings: Settings) -> None:
        for name, least in (("pieces", 4), ("orders", 2), ("answer", 1)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        passages = _passages(subject, settings)
        counts = [2**power for power in range(1, settings["pieces"].bit_length()) if 2**power <= settings["pieces"]]
        found: dict[str, dict[str, float]] = {}
        for index, count in enumerate(counts):
            kept = subject.workspace.load_json(f"orderings/{count}")
            if kept is None:
                with evaluating(subject.model):
                    each = [_of_passage(subject, ids, count, settings) for ids in passages]
                kept = {key: sum(one[key] for one in each) / len(each) for key in KEYS}
                subject.workspace.save_json(f"orderings/{count}", kept)
            found[str(count)] = kept
            subject.tell("reading in other orders", index + 1, len(counts))
        slope, start = line([math.log(count) for count in counts], [one["dispersion"] for one in found.values()])
        result = {"passages": len(passages), "pieces": found, "a": start, "b": slope}
        return {**result, "sections": _sections(result)}


def _passages(subject: Subject, settings: Settings) -> list[Tensor]:
    """Rows (T,) of the judge batches without padding, long enough, of a model that foretells the next token."""
    rows = [ids for ids in unpadded(subject) if len(ids) > settings["answer"] + settings["pieces"]]
    if not rows:
        raise UserError(
            "Orders of evidence are those of a language model's text, and there is no passage here without padding "
            f"that is long enough for {settings['pieces']} pieces and an answer of {settings['answer']} tokens."
        )
    with evaluating(subject.model):
        check_foretells(subject, rows[0], "Orders of evidence")
    return rows


def _of_passage(subject: Subject, ids: Tensor, count: int, settings: Settings) -> dict[str, float]:
    answer, end = settings["answer"], len(ids) - settings["answer"] - 1
    length = end // count
    pieces = ids[end - count * length : end].view(count, length)
    rows = [torch.cat((pieces[torch.tensor(order)].flatten(), ids[end:])) for order in _orders(count, settings)]
    logits = torch.cat([logits_of(subject, row[None]) for row in rows])
    chances = logits[:, -answer - 1 : -1].double().log_softmax(-1)
    told = chances.gather(2, ids[-answer:].expand(len(rows), -1)[..., None]).sum((1, 2))
    return {
        "mean": -float(told.mean()) / answer,
        "mixture": -float(told.logsumexp(0) - math.log(len(rows))) / answer,
        "dispersion": float(told.std(correction=0)) / answer,
    }


def _orders(count: int, settings: Settings) -> list[tuple[int, ...]]:
    """As they stand, and others: all there are, or so many drawn at random, the same for every passage."""
    if math.factorial(count) <= settings["orders"]:
        return list(permutations(range(count)))
    generator = torch.Generator().manual_seed(0)
    drawn = (tuple(torch.randperm(count, generator=generator, device="cpu").tolist()) for _ in range(1000))
    others = (order for order in dict.fromkeys(drawn) if order != tuple(range(count)))
    return [tuple(range(count)), *islice(others, settings["orders"] - 1)]


def line(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """Slope and start of the line of least squares."""
    x, y = torch.tensor(xs, dtype=torch.float64), torch.tensor(ys, dtype=torch.float64)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return slope, float(y.mean()) - slope * float(x.mean())


def _sections(found: dict[str, Any]) -> list[Section]:
    rows = [[f"{count} pieces", *(one[key] for key in KEYS)] for count, one in found["pieces"].items()]
    text = (
        f"Nats a token of the answer, over {found['passages']} passages. The dispersion follows {found['a']:.3g} + "
        f"{found['b']:.3g} ln n. A mixture that is well below the mean is what averaging over orders would gain."
    )
    return [table("Evidence in other orders", ["evidence", *KEYS], rows, text)]
