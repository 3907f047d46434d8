"""Whether a model's answer about a subject is a linear function of another answer about it.

Two prompts, such as "{} is a city in the country of" and "The language that people speak in {} is", are filled with the
same subjects. For each, x are the log-probabilities of the answers to the first prompt and y those to the second (the
tokens whose probability rises most above its mean for some subject), and ridge regression on half of the subjects gives

    y ~ W x + b

On the other half: the correlation of W x + b with y, answer by answer and averaged over answers; and the share of
subjects whose most likely answer is foretold. The same fitted to subjects in a random order is the control, at about 0.
The largest entries of W say which answer brings which along, rightly or wrongly.

Paper: "Linear Correlation in LM's Compositional Generalization and Hallucination", arXiv 2502.04520 (logits of related
prompts, restricted to the answers, and a linear map between them, from its abstract). Differs: log-probabilities, and
answers that are read off the model instead of lists of them; its map from vocabulary embeddings and its updates of
facts are not here. Subjects and prompts are the user's where they are given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.floors import ridge
from layersmith.explaining.passages import check_foretells, logits_of
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.inputs import is_causal_lm

#: Fewer subjects than this show nothing; pairs of answers that are listed; random orders of the control.
LEAST, LISTED, ORDERS = 16, 12, 20
SUBJECTS = """
Paris, Lyon, Marseille, London, Manchester, Liverpool, Berlin, Munich, Hamburg, Rome, Milan, Naples, Madrid, Barcelona,
Seville, Lisbon, Porto, Vienna, Zurich, Geneva, Amsterdam, Rotterdam, Brussels, Antwerp, Copenhagen, Stockholm, Oslo,
Helsinki, Warsaw, Krakow, Prague, Budapest, Bucharest, Sofia, Athens, Istanbul, Ankara, Moscow, Kyiv, Cairo, Alexandria,
Lagos, Nairobi, Casablanca, Tehran, Baghdad, Riyadh, Dubai, Karachi, Delhi, Mumbai, Chennai, Dhaka, Bangkok, Hanoi,
Jakarta, Manila, Beijing, Shanghai, Seoul, Tokyo, Osaka, Kyoto, Sydney, Melbourne, Auckland, Toronto, Montreal,
Vancouver, Boston, Chicago, Houston, Havana, Bogota, Lima, Santiago
"""


class Relations(Survey):
    name = "relations"
    summary = "Whether a language model's answers to one prompt are a linear function of its answers to another."
    papers = ("linear-correlation-lms-compositional-generalization",)
    settings: ClassVar[Settings] = {
        "source": "{} is a city in the country of",
        "target": "The language that people speak in {} is",
        "subjects": "",
        "answers": 16,
        "strength": 0.1,
    }

    def check(self, settings: Settings) -> None:
        for name in ("source", "target"):
            if settings[name].count("{}") != 1:
                raise UserError(f"The setting {name} is a prompt with {{}} once, where its subject stands.")
        if settings["answers"] < 2 or settings["strength"] <= 0:
            raise UserError("There have to be at least 2 answers, and the strength of the ridge has to be above 0.")
        subjects_of(settings)

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        if subject.tokenizer is None:
            raise UserError("Prompts are text: pass the tokenizer of the model.")
        if not is_causal_lm(subject.model):
            raise UserError("Related prompts need a model that foretells the next token; this one does not.")
        names = subjects_of(settings)
        with evaluating(subject.model):
            asked = {name: _answered(subject, settings[name], names) for name in ("source", "target")}
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0), device="cpu")
        fit, held = order[: len(names) // 2], order[len(names) // 2 :]
        chosen = {name: _answers(logs[fit], settings["answers"]) for name, logs in asked.items()}
        x, y = (asked[name][:, chosen[name]] for name in ("source", "target"))
        told = judged(x[fit], y[fit], x[held], y[held], settings["strength"])
        weight = told.pop("weight")
        result = {
            "subjects": len(names),
            "judged_on": len(held),
            **told,
            "shuffled": _shuffled(x[fit], y[fit], x[held], y[held], settings["strength"]),
            "pairs": _pairs(subject, weight * x[fit].std(0) / y[fit].std(0).clamp(min=1e-9)[:, None], chosen),
        }
        return {**result, "sections": _sections(result, settings)}


def subjects_of(settings: Settings) -> list[str]:
    """One a line of the file, or those that stand here. UserError for a file that is none, or holds too few."""
    if not settings["subjects"]:
        return [name.strip() for name in SUBJECTS.split(",")]
    path = Path(settings["subjects"]).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Subjects are read from a text file, one a line; {str(path)!r} cannot be: {error}.") from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(names) < LEAST:
        raise UserError(f"{str(path)!r} holds {len(names)} subjects, one a line; at least {LEAST} are needed.")
    return names


def judged(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor, strength: float) -> dict[str, Any]:
    """The map of x (N, K) to y (N, L), judged on others: mean correlation of an answer, share of answers foretold."""
    weight, bias = ridge(x, y, strength)
    said = new_x @ weight.T + bias
    return {
        "weight": weight,
        "correlation": float(correlations(said, new_y).mean()),
        "foretold": float((said.argmax(1) == new_y.argmax(1)).double().mean()),
        "commonest": int(torch.bincount(new_y.argmax(1)).max()) / len(new_y),
    }


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """(L,): of each column of a (N, L) with that of b; 0 where one does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = a.norm(dim=0) * b.norm(dim=0)
    return torch.where(size > 0, (a * b).sum(0) / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)


def _shuffled(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor, strength: float) -> float:
    """The mean correlation of maps that were fitted to subjects in random orders."""
    generator, total = torch.Generator().manual_seed(1), 0.0
    for _ in range(ORDERS):
        order = torch.randperm(len(y), generator=generator, device="cpu")
        total += judged(x, y[order], new_x, new_y, strength)["correlation"] / ORDERS
    return total


def _answered(subject: Subject, prompt: str, names: list[str]) -> Tensor:
    """(subjects, V) float64 on the CPU: the log-probabilities of the token after the prompt."""
    rows = []
    for index, name in enumerate(names):
        ids = torch.tensor(_ids(subject.tokenizer, prompt.replace("{}", name)), device=subject.device)
        if index == 0:
            check_foretells(subject, ids, "Related prompts")
        rows.append(logits_of(subject, ids[None])[0, -1].double().log_softmax(-1).cpu())
        subject.tell("asking", index + 1, len(names))
    return torch.stack(rows)


def _ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that is to be gone on with, without an end that the tokenizer adds."""
    ids, special = list(tokenizer(text)["input_ids"]), set(getattr(tokenizer, "all_special_ids", ()))
    while len(ids) > 1 and ids[-1] in special:
        ids.pop()
    return ids


def _answers(logs: Tensor, count: int) -> Tensor:
    """The tokens whose probability rises most above its mean for some subject: what all have in common is no answer."""
    chances = logs.exp()
    return (chances.amax(0) - chances.mean(0)).topk(min(count, logs.shape[1])).indices


def _pairs(subject: Subject, weight: Tensor, chosen: dict[str, Tensor]) -> list[list[Any]]:
    """The largest entries of W, in standard deviations of y for one of x: both answers, and the entry."""
    rows = []
    for place in weight.flatten().argsort(descending=True)[:LISTED].tolist():
        row, column = divmod(place, weight.shape[1])
        words = [subject.tokenizer.decode([int(chosen[n][i])]) for n, i in (("source", column), ("target", row))]
        rows.append([*(repr(word) for word in words), float(weight[row, column])])
    return rows


def _sections(found: dict[str, Any], settings: Settings) -> list[Section]:
    figures = [
        ["correlation, held-out subjects", found["correlation"]],
        ["the same, fitted to subjects in a random order", found["shuffled"]],
        ["answers foretold", found["foretold"]],
        ["the commonest answer's share", found["commonest"]],
    ]
    text = (
        f"From {settings['source']!r} to {settings['target']!r}, by a linear map fitted to "
        f"{found['subjects'] - found['judged_on']} subjects and judged on {found['judged_on']} others."
    )
    pairs = "The largest weights: an answer to the first prompt, and the answer to the second that it brings along."
    return [
        table("One answer from another", ["figure", "value"], figures, text),
        table("What brings what along", ["first", "second", "weight"], found["pairs"], pairs),
    ]
