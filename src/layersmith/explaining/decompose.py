"""What every input token adds to an answer: exact sums, carried through the whole model.

For each of some held-out passages the model's own answer at one position is split over the tokens of the passage (and
the biases), by DecompX and by contextual decomposition (`decompositions/parts.py`). That the parts add up to what the
model computes is measured. Integrated gradients and attention rollout stand beside them, and a random order, all judged
by deletion (`decompositions/deletion.py`).

The last stream is split, and with it the answer's centred logit where the head is a linear map of the normed stream; if
it is not, what counts is each part's share of the stream at that position: part . whole / ||whole||^2.

Papers: as in `decompositions/parts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy.running import evaluating, plainly
from layersmith.anatomy.stream import NoSum, Step, steps_of
from layersmith.errors import UserError
from layersmith.explaining.attribution import Head, head_of
from layersmith.explaining.decompositions.deletion import SHARES, falls
from layersmith.explaining.decompositions.parts import (
    Contextual,
    DecompX,
    Sublayer,
    against_rest,
    of_tokens,
    through,
)
from layersmith.explaining.decompositions.rivals import integrated_gradients, rollout
from layersmith.explaining.norms import LinearNorm, linear_norm
from layersmith.explaining.recognised import attention_at, ffn_at
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.divergence import is_distribution, main_output, real_positions

Batch = dict[str, Tensor]
METHODS = {
    "decompx": "DecompX",
    "contextual": "contextual decomposition",
    "gradients": "integrated gradients",
    "rollout": "attention rollout",
    "random": "random order",
}


class Decompose(Survey):
    name = "decompose"
    summary = "What every input token adds to the model's answer, in parts that sum to it exactly."
    papers = (
        "decompx-explaining-transformers-decisions-propagating",
        "mechanistic-interpretation-through-contextual-decomposition",
    )
    settings: ClassVar[Settings] = {"length": 32, "passages": 8, "steps": 16}

    def check(self, settings: Settings) -> None:
        for name, least in (("length", 4), ("passages", 1), ("steps", 1)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        passages = _passages(subject, settings["length"], settings["passages"])
        blocks = _recognised(subject, passages[0])
        done = []
        for index, passage in enumerate(passages):
            name = f"decompose/{index:04d}"
            found = subject.workspace.load_json(name)
            if found is None:
                found = _Passage.of(subject, blocks, passage).split(settings["steps"], index)
                subject.workspace.save_json(name, found)
            done.append(found)
            subject.tell("splitting answers", index + 1, len(passages))
        return {"passages": done, **_summed(done), "sections": _sections(subject, done)}


def _passages(subject: Subject, length: int, wanted: int) -> list[Batch]:
    """Held-out batches of one row without padding: at most `length` tokens of text, or a whole picture."""
    found = []
    for batch in subject.judge:
        real = real_positions(batch)
        for row in range(len(next(iter(batch.values())))):
            one = {key: tensor[row : row + 1] for key, tensor in batch.items()}
            if "input_ids" in one:
                if real is not None and not bool(real[row, : min(length, real.shape[1])].all()):
                    continue
                one = {key: tensor[:, :length] for key, tensor in one.items() if key != "attention_mask"}
            found.append(one)
            if len(found) == wanted:
                return found
    if not found:
        raise UserError(f"No held-out passage has {length} tokens. Give longer text, or a smaller --set length.")
    return found


def _recognised(subject: Subject, passage: Batch) -> list[list[Sublayer]]:
    """Every block as operators that parts can be carried through. UserError, saying why, where there is no such."""
    try:
        return [
            [_sublayer(subject, step, passage) for step in block]
            for block in steps_of(subject.replay, subject.anatomy, passage)
        ]
    except NoSum as why:
        raise UserError(
            f"{type(subject.model).__name__} cannot be decomposed: {why}. Integrated gradients need no such structure; "
            f"layersmith's circuit (--with circuit) patches sites of every model."
        ) from why


def _sublayer(subject: Subject, step: Step, passage: Batch) -> Sublayer:
    model, site = subject.model, step.site
    operator = attention_at(model, site) if site.kind == "mixer" else ffn_at(model, site)
    if operator is None:
        raise NoSum(f"{site.name} is no softmax attention, and no plain or gated feed-forward, that is recognised")
    paths = [path for path in (step.norm, step.post, step.closing) if path]
    norms: dict[str | None, LinearNorm | None] = {None: None}
    with evaluating(model):
        for path, calls in subject.replay.calls_of(passage, paths).items():
            norms[path] = linear_norm(model.get_submodule(path), calls[0].input)
            if norms[path] is None:
                raise NoSum(f"{path} is neither a LayerNorm nor an RMSNorm")
    return Sublayer(operator, norms[step.norm], norms[step.post], norms[step.closing], step.sees)


@dataclass(frozen=True)
class _Passage:
    """One passage in the model.

    entering  (T, D) before each block, and after the last
    position  where the answer is read, answer: what the model says there (None: it has no classes)
    base      (T, D): what a deleted token is replaced by
    """

    subject: Subject
    blocks: list[list[Sublayer]]
    batch: Batch
    entering: list[Tensor]
    base: Tensor
    position: int
    answer: int | None
    head: Head | str

    @classmethod
    def of(cls, subject: Subject, blocks: list[list[Sublayer]], batch: Batch) -> _Passage:
        with evaluating(subject.model):
            streams = subject.replay.block_inputs(batch)
            output = subject.replay.run_from(0, streams[0], batch)
            logits = main_output(output)
            head: Head | str = "its answers are no classes"
            if is_distribution(output):
                head = head_of(subject.model, subject.anatomy, streams[-1], logits)
            others = subject.replay.block_inputs(_like(subject, batch))[0]
        position = logits.shape[1] - 1 if logits.shape[1] == streams[0].shape[1] and "input_ids" in batch else 0
        answer = int(logits[0, position].argmax()) if is_distribution(output) else None
        base = others.mean((0, 1), keepdim=True)[0].expand_as(streams[0][0])
        return cls(
            subject=subject,
            blocks=blocks,
            batch=batch,
            entering=[stream[0] for stream in streams],
            base=base,
            position=position,
            answer=answer,
            head=head,
        )

    def score(self, x: Tensor) -> Tensor:
        """(N, T, D) entering the first block -> (N,): log-probability of the answer, or minus the squared distance."""
        replay, inputs = self.subject.replay, {k: t.repeat(len(x), *[1] * (t.dim() - 1)) for k, t in self.batch.items()}
        with plainly(self.subject.model):
            found = main_output(replay.run_from(0, x, inputs))[:, self.position]
        if self.answer is not None:
            return found.log_softmax(-1)[:, self.answer]
        whole = self.entering[-1][self.position]
        return -(found - whole).square().sum(-1) / whole.square().sum()

    def split(self, steps: int, seed: int) -> dict[str, Any]:
        """What each token is worth by each method, how exact the sums are, and what deletion says."""
        with evaluating(self.subject.model):
            parts = of_tokens(self.entering[0])
            pairs = against_rest(self.entering[0])
            for block in self.blocks:
                parts, pairs = through(block, parts, DecompX()), through(block, pairs, Contextual())
            worth = {
                "decompx": self._worth(parts[:, 0]),
                "contextual": self._worth(pairs[0]),
                "rollout": rollout(self.blocks, self.entering[:-1], self.position),
                "random": torch.rand(len(self.base), generator=torch.Generator().manual_seed(seed), device="cpu"),
            }
            worth["gradients"] = integrated_gradients(self.score, self.entering[0], self.base, steps)
            whole = self.entering[-1]
            gaps = {
                "decompx": _gap(parts.sum(0)[0], whole),
                "contextual": _gap(pairs.sum(0), whole.expand_as(pairs[0])),
            }
            tokens = len(self.base)
            return {
                "ids": self.batch["input_ids"][0].tolist() if "input_ids" in self.batch else None,
                "position": self.position,
                "answer": self.answer,
                "of": "logit" if isinstance(self.head, Head) else "stream",
                "why": self.head if isinstance(self.head, str) else "",
                "whole": float(self._worth(whole[None])[0]),
                "biases": float(worth["decompx"][-1]),
                "gaps": gaps,
                "worth": {name: worth[name][:tokens].tolist() for name in METHODS},
                "falls": {
                    name: falls(self.score, self.entering[0], self.base, worth[name][:tokens], self.position)
                    for name in METHODS
                },
            }

    def _worth(self, parts: Tensor) -> Tensor:
        """(P, T, D) parts of the last stream -> (P,): what each adds to the answer; without the biases of the head."""
        whole, here = self.entering[-1][self.position], parts[:, self.position]
        if not isinstance(self.head, Head):
            return here @ whole / whole.square().sum()
        scale = self.head.scales(self.entering[-1][None])[0, self.position]
        return self.head.shares(here, scale.expand(len(here)), torch.full((len(here),), self.answer or 0))


def _like(subject: Subject, batch: Batch) -> Batch:
    """A batch to take the mean of what enters from, as long as the passage."""
    first = dict(subject.fit[0])
    if "input_ids" in batch:
        length = batch["input_ids"].shape[1]
        return {key: tensor[:, :length] for key, tensor in first.items() if key in batch}
    return first


def _gap(found: Tensor, whole: Tensor) -> float:
    return float((found - whole).norm() / whole.norm())


def _summed(done: list[dict[str, Any]]) -> dict[str, Any]:
    count = len(done)
    return {
        "gap": {rule: max(each["gaps"][rule] for each in done) for rule in ("decompx", "contextual")},
        "falls": {
            name: [sum(values) / count for values in zip(*(each["falls"][name] for each in done), strict=True)]
            for name in METHODS
        },
    }


def _sections(subject: Subject, done: list[dict[str, Any]]) -> list[Section]:
    found = _summed(done)
    kind = "log-probability of the answer, nats" if done[0]["answer"] is not None else "nearness of the last stream"
    told = (
        f"{len(done)} passages; {kind}: how much it falls when the most supporting tokens are deleted first. The parts "
        f"sum to the last stream up to a relative error of {found['gap']['decompx']:.1e} (DecompX) and "
        f"{found['gap']['contextual']:.1e} (contextual)."
    )
    if done[0]["why"]:
        told += f" Parts are of the last stream, not of a logit: {done[0]['why']}."
    columns = ("ranking", *(f"{share:.0%} deleted" for share in SHARES), "mean")
    made = [table("Deletion", columns, [[METHODS[name], *found["falls"][name]] for name in METHODS], told)]
    passages = [_shaded(subject.tokenizer, each) for each in done if each["ids"] and subject.tokenizer is not None]
    if passages:
        text = "DecompX: the darker a token, the more it adds to the answer, which stands before the passage."
        made.append({"title": "What answers are made of", "text": text, "passages": passages})
    return made


def _shaded(tokenizer: Any, found: dict[str, Any]) -> dict[str, Any]:
    worth = found["worth"]["decompx"]
    most = max([*worth, 1e-30])
    words = [tokenizer.decode([token]) for token in found["ids"]]
    answer = found["answer"]
    label = repr(tokenizer.decode([answer])) if answer is not None and answer < len(tokenizer) else ""
    return {"label": label, "tokens": [[word, max(w, 0.0) / most] for word, w in zip(words, worth, strict=True)]}
