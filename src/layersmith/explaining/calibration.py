"""Whether a language model knows how sure it is: how often its likeliest next token is right, against what it says.

    said      the probability of the likeliest token
    interval  (p0, p1) that Venn-ABERS gives it, fitted to one half of the text; p = p1 / (1 - p0 + p1)
    error     expected calibration error over 15 bins, and Brier score, of both on the other half

A model that was refitted may answer as before and be surer, or less sure, than it should be; this shows it, and what to
make of its probabilities. The order of probabilities stays what it was, up to ties.

Paper: arXiv 2205.10586, "Calibration of Natural Language Understanding Models with Venn-ABERS Predictors".
Differs: the next token of a language model stands for the classes of its tasks; of many classes only the likeliest is
calibrated. Confirmed are the inductive predictor and p, in a well-kept library; of the paper itself only its abstract.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.measures.venn_abers import VennAbers, brier, calibration_error, merged
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.divergence import main_output, run
from layersmith.measuring.inputs import is_causal_lm

#: Tokens on each side, at least.
FEWEST = 50


class Calibration(Survey):
    name = "calibration"
    summary = "How sure a language model is of its next token, how sure it should be, and what Venn-ABERS makes of it."
    papers = ("calibration-natural-language-understanding-models",)
    settings: ClassVar[Settings] = {"rows": 10}

    def check(self, settings: Settings) -> None:
        if not 2 <= settings["rows"] <= 100:
            raise UserError(f"The setting rows must lie between 2 and 100, not {settings['rows']}.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        if not is_causal_lm(subject.model):
            raise UserError("Calibration is that of a model that foretells the next token; this one does not.")
        said, right = _answers(subject, "fit", subject.fit)
        asked, so = _answers(subject, "judge", subject.judge)
        if min(len(said), len(asked)) < FEWEST:
            raise UserError(
                f"Calibration needs {FEWEST} tokens to fit and as many to judge: {len(said)}, {len(asked)}."
            )
        fitted = VennAbers(said, right)
        intervals = [fitted.interval(score) for score in asked]
        found = judged(asked, intervals, so)
        found |= {"fit_tokens": len(said), "judge_tokens": len(asked)}
        return {**found, "sections": _sections(found, asked, intervals, so, settings["rows"])}


def judged(asked: list[float], intervals: list[tuple[float, float]], so: list[bool]) -> dict[str, Any]:
    """What the model says and what Venn-ABERS makes of it, each against what was so."""
    calibrated = [merged(low, high) for low, high in intervals]
    figures = {
        name: {
            "mean": sum(chances) / len(chances),
            "error": calibration_error(chances, so),
            "brier": brier(chances, so),
        }
        for name, chances in (("said", asked), ("venn_abers", calibrated))
    }
    width = sum(high - low for low, high in intervals) / len(intervals)
    return {**figures, "right": sum(so) / len(so), "width": width}


def _answers(subject: Subject, name: str, batches: list[dict[str, Tensor]]) -> tuple[list[float], list[bool]]:
    """For every real token that follows a real one: the likeliest token's probability, and whether it was that."""
    said: list[float] = []
    right: list[bool] = []
    for index, batch in enumerate(batches):
        kept = subject.workspace.load_tensors(f"calibration/{name}-{index}")
        if kept is None:
            with evaluating(subject.model):
                kept = _of_batch(subject, batch)
            subject.workspace.save_tensors(f"calibration/{name}-{index}", kept)
        said += kept["said"].tolist()
        right += kept["right"].bool().tolist()
        subject.tell("asking for the next token", index + 1, len(batches))
    return said, right


@torch.no_grad()
def _of_batch(subject: Subject, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    logits, ids = main_output(run(subject.model, batch))[:, :-1], batch["input_ids"]
    real = batch.get("attention_mask", torch.ones_like(ids)).bool()
    pairs = real[:, :-1] & real[:, 1:]
    scores, answers = logits[pairs], ids[:, 1:][pairs]
    top = scores.float().max(-1)
    said = (top.values - scores.float().logsumexp(-1)).exp()
    return {"said": said.double().cpu(), "right": (top.indices == answers).to(torch.uint8).cpu()}


def _sections(
    found: dict[str, Any], asked: list[float], intervals: list[tuple[float, float]], so: list[bool], rows: int
) -> list[Section]:
    """Both against what was so; then tokens in equal shares, from the least sure ones on."""
    names = {"said": "as the model says", "venn_abers": "after Venn-ABERS"}
    errors = [[title, *(found[key][what] for what in ("mean", "error", "brier"))] for key, title in names.items()]
    told = f"The likeliest token was right in {found['right']:.1%} of {found['judge_tokens']} held-out tokens."
    order = sorted(range(len(asked)), key=asked.__getitem__)
    shares = [order[len(order) * i // rows : len(order) * (i + 1) // rows] for i in range(rows)]
    by_share = []
    for share in filter(None, shares):
        figures = [(asked[i], float(so[i]), *intervals[i]) for i in share]
        means = [sum(column) / len(share) for column in zip(*figures, strict=True)]
        by_share.append([f"{asked[share[0]]:.3f} – {asked[share[-1]]:.3f}", *means])
    text = (
        f"From the least sure tokens to the surest, in equal shares. p0 and p1 bracket the probability; they are "
        f"{found['width']:.4f} apart on average, and the nearer the more text they were fitted to."
    )
    return [
        table("How sure it is", ["", "mean probability", "calibration error", "Brier score"], errors, told),
        table("By how sure it says it is", ["says", "mean", "was right", "p0", "p1"], by_share, text),
    ]
