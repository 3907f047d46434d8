"""The subnetwork of a language model that predicts the next token from the current one alone.

Bigrams of text are counted; a mask over the weights of feed-forwards and mixers (`masking.py`) is learnt, so that what
is left of the model says what the bigrams say, from as few weights as it gets by with:

    loss = - sum_w P(w | current token) log q(w | context) + penalty * share of weights kept

On text that neither was counted nor learnt from stand, for the whole model, the subnetwork and as many weights of each
matrix at random: the correlation of log q(next) with log P(next | current token), over pairs that were counted; the
cross entropy with the bigrams; and the loss on the text. The loss without the subnetwork, and without the random
weights, says how much the model leans on them.

    layersmith explain MODEL --with bigrams --set penalty=10

Paper: "Bigram Subnetworks: Mapping to Next Tokens in Transformer Language Models" (loss and mask: confirmed in the
released code). Differs from the paper: hundreds of steps of a large rate instead of 15,000 of a small one; bigrams of
the run's text, not of the model's training data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.running import evaluating
from layersmith.data.text import read
from layersmith.data.windows import windows
from layersmith.errors import UserError
from layersmith.explaining.masking import Masks, learn, maskable, masked, random_like, without
from layersmith.explaining.passages import logits_of
from layersmith.explaining.sections import Column, Section, heat_map, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.inputs import is_causal_lm
from layersmith.runs.identity import batches_digest

#: Tokens of a window that bigrams are counted in.
LENGTH = 256


class Bigrams(Survey):
    name = "bigrams"
    summary = "The few weights of a language model that predict the next token from the current one alone."
    papers = ("bigram-subnetworks",)
    settings: ClassVar[Settings] = {
        "text": "stdlib",
        "counted": 400_000,
        "steps": 300,
        "rate": 0.05,
        "penalty": 10.0,
        "seed": 0,
    }

    def check(self, settings: Settings) -> None:
        for name, least in (("counted", LENGTH), ("steps", 1), ("seed", 0)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")
        if not settings["rate"] > 0 or settings["penalty"] < 0:
            raise UserError("rate must be more than 0, and penalty 0 or more (nats for keeping all weights).")
        read(settings["text"], "calibration")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        weights = maskable(subject.model, subject.sites)
        if not is_causal_lm(subject.model) or subject.tokenizer is None or not weights:
            raise UserError(
                f"Bigrams are what a model that predicts the next token may have learnt, in the weight matrices of its "
                f"sublayers; {type(subject.model).__name__} with the sites asked for is not that. Take a GPT-like "
                f"model with its tokenizer, and sites with such matrices."
            )
        with evaluating(subject.model):
            counted, work = _counted(subject, settings)
            masks = _learnt(subject, settings, weights, counted, work)
            rows = _rows(subject, settings["seed"], weights, masks, counted, work)
        kept = {name: float(mask.double().mean()) for name, mask in masks.items()}
        share = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
        found = {"kept": share, "matrices": kept, "pairs": int(counted.values.numel()), "rows": rows}
        return {**found, "sections": _sections(subject, found, masks)}


@dataclass(frozen=True)
class Counts:
    """P(next | current) as sparse rows: of token w the entries start[w] to start[w + 1] of `tokens` and `values`."""

    start: Tensor
    tokens: Tensor
    values: Tensor

    def log_p(self, current: Tensor, following: Tensor) -> Tensor:
        """log P for each pair; -inf for one that was not counted."""
        size = len(self.start) - 1
        owners = torch.repeat_interleave(torch.arange(size, device=self.start.device), self.start.diff())
        keys, wanted = owners * size + self.tokens, current * size + following
        place = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        return torch.where(keys[place] == wanted, self.values[place].log(), -torch.inf)

    def cross_entropy(self, current: Tensor, log_q: Tensor) -> Tensor:
        """- sum_w P(w | current) log q(w), mean over the tokens that were counted. current (N,), log_q (N, V)."""
        lengths = self.start.diff()[current]
        rows = torch.repeat_interleave(torch.arange(len(current), device=current.device), lengths)
        ends = lengths.cumsum(0)
        entries = torch.arange(len(rows), device=current.device) - (ends - lengths - self.start[current])[rows]
        total = -(self.values[entries].to(log_q.dtype) * log_q[rows, self.tokens[entries]]).sum()
        return total / (lengths > 0).sum().clamp_min(1)


def counts(ids: Tensor, vocabulary: int) -> Counts:
    """Of rows of token ids (N, T): how often each token follows each other, as shares."""
    pairs = (ids[:, :-1] * vocabulary + ids[:, 1:]).flatten()
    keys, times = pairs.unique(return_counts=True)  # sorted
    current = keys // vocabulary
    per_row = torch.zeros(vocabulary, dtype=torch.float64, device=ids.device)
    per_row.scatter_add_(0, current, times.double())
    sizes = torch.bincount(current, minlength=vocabulary)
    return Counts(F.pad(sizes.cumsum(0), (1, 0)), keys % vocabulary, times.double() / per_row[current])


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's; None where one of them never changes, or there are no two."""
    if len(a) < 2:
        return None
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 0 else None


def _counted(subject: Subject, settings: Settings) -> tuple[Counts, str]:
    """The bigrams, and where the workspace keeps what comes of them: another text under the same name is another."""
    length = min(LENGTH, longest_input(subject.model) or LENGTH)
    text = read(settings["text"], "calibration")
    rows = windows(text, subject.tokenizer, length, max(1, settings["counted"] // length), settings["seed"])
    if not len(rows):
        raise UserError(f"{settings['text']!r} holds less than one window of {length} tokens. Give a longer text.")
    rows = rows.to(subject.device)
    work = f"bigrams/{batches_digest([{'input_ids': rows}])[:16]}"
    return counts(rows, logits_of(subject, rows[:1, :1]).shape[-1]), work


def _learnt(subject: Subject, settings: Settings, weights: dict[str, Tensor], counted: Counts, work: str) -> Masks:
    """The mask, kept in the workspace."""
    saved = subject.workspace.load_tensors(f"{work}/mask")
    if saved is not None:
        return {name: saved[name].to(subject.device) for name in weights}

    def loss(masks: Masks, step: int) -> Tensor:
        batch = subject.fit[step % len(subject.fit)]
        row = step // len(subject.fit) % len(batch["input_ids"])
        batch = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        ids, logits = batch["input_ids"], masked(subject.model, weights, masks, batch)
        return counted.cross_entropy(ids[0], logits[0].float().log_softmax(-1))

    masks = learn(weights, loss, settings["steps"], settings["rate"], settings["penalty"], subject.tell)
    subject.workspace.save_tensors(f"{work}/mask", masks)
    return masks


def _rows(
    subject: Subject, seed: int, weights: dict[str, Tensor], masks: Masks, counted: Counts, work: str
) -> dict[str, dict[str, float | None]]:
    drawn = random_like(masks, seed)
    every = {name: torch.ones_like(mask) for name, mask in masks.items()}
    looked = {
        "whole model": every,
        "subnetwork": masks,
        "random weights": drawn,
        "without subnetwork": without(masks),
        "without random weights": without(drawn),
    }
    rows = {}
    for index, (name, each) in enumerate(looked.items()):
        saved = subject.workspace.load_json(f"{work}/{name}")
        if saved is None:
            saved = _measured(subject, weights, each, counted)
            subject.workspace.save_json(f"{work}/{name}", saved)
        rows[name] = saved
        subject.tell("measuring", index + 1, len(looked))
    return rows


@torch.no_grad()
def _measured(subject: Subject, weights: dict[str, Tensor], masks: Masks, counted: Counts) -> dict[str, float | None]:
    ours, theirs, crosses = [], [], []
    for batch in subject.judge:
        ids, real = batch["input_ids"], batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        log_q = masked(subject.model, weights, masks, batch).float().log_softmax(-1)
        both = real[:, 1:] & real[:, :-1]
        current, following = ids[:, :-1][both], ids[:, 1:][both]
        ours.append(log_q[:, :-1][both].gather(1, following[:, None])[:, 0])
        theirs.append(counted.log_p(current, following))
        crosses.append((float(counted.cross_entropy(current, log_q[:, :-1][both])), len(current)))
    log_q, log_p = torch.cat(ours), torch.cat(theirs)
    known = log_p > -torch.inf
    return {
        "correlation": correlation(log_q[known], log_p[known]),
        "cross_entropy": sum(value * n for value, n in crosses) / sum(n for _, n in crosses),
        "text": -float(log_q.double().mean()),
    }


def _sections(subject: Subject, found: dict[str, Any], masks: Masks) -> list[Section]:
    columns = ["correlation", "cross_entropy", "text"]
    rows = [
        [name, *("–" if row[column] is None else row[column] for column in columns)]
        for name, row in found["rows"].items()
    ]
    sites = [site for site in subject.sites if site.kind in ("ffn", "mixer")]
    return [
        table(
            "What the subnetwork says",
            ["weights", "correlation", "cross entropy", "text"],
            rows,
            f"{found['kept']:.3%} of the weights of feed-forwards and mixers are kept. Correlation and cross entropy "
            f"are with bigrams ({found['pairs']:,} different ones); all figures in nats, on text not learnt from.",
        ),
        heat_map(
            "Where it is",
            [Column("kept", "share of the site's weights that the subnetwork keeps", log=True)],
            [(site.name, [_share(masks, site.modules)]) for site in sites],
        ),
    ]


def _share(masks: Masks, paths: tuple[str, ...]) -> float | None:
    inside = [mask for name, mask in masks.items() if name.startswith(tuple(f"{path}." for path in paths))]
    kept, size = sum(int(m.sum()) for m in inside), sum(m.numel() for m in inside)
    return kept / size if size else None
