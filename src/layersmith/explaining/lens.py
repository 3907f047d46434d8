"""What the model would answer if it stopped after each block, and what each sublayer adds to its answer.

    logit lens   the model's own head reads the stream after block l:  head(h_l)
    tuned lens   the same after an affine translator of the block's own:  head(h_l + A_l h_l + b_l)

A_l and b_l start as the ridge regression of the last stream on h_l and are then trained on the divergence from the
model's own answer, for a few steps; the state that is best on text kept aside from the training is taken. The head is
whatever follows the last block in this model, run by the model itself.

Papers: "Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary Space" and
"Analyzing Transformers in Embedding Space" read sublayers in vocabulary space; arXiv 2303.08112 is the tuned lens. The
papers' interventions and attention circuits in vocabulary space are not here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from layersmith.anatomy.running import evaluating
from layersmith.explaining.attribution import Head, head_of, parts_of
from layersmith.explaining.readout import Readout
from layersmith.explaining.sections import Column, Section, heat_map, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.explaining.tuned import forget, record, translator
from layersmith.measuring.divergence import Divergence, main_output, real_positions, real_rows

#: Tokens whose readings are shown.
SHOWN = 10


class Lens(Survey):
    name = "lens"
    summary = "What the model would answer after each block, and what each sublayer adds to the answer."
    papers = (
        "transformer-feed-forward-layers-build",
        "analyzing-transformers-embedding-space",
        "interpreting-key-mechanisms-factual-recall",
    )
    settings: ClassVar[Settings] = {"steps": 24}

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        with evaluating(subject.model):
            head = Readout(subject)
            count = record(subject, head)
            tuned = [translator(subject, head, layer, count, settings["steps"]) for layer in range(len(head.blocks))]
            forget(subject, head, count)
            read = _judge(subject, head, tuned)
            added, why = _attribute(subject, head)
            words = _words(subject, head)
        found = {"layers": read, "attribution": added, "no_attribution": why}
        return {**found, "sections": _sections(found, words)}


def _judge(subject: Subject, head: Readout, tuned: list[nn.Linear]) -> dict[str, dict[str, Any]]:
    """Block -> how far both lenses read from the model's answer, on the judge batches."""
    sums = {(layer, lens): Divergence() for layer in range(len(tuned)) for lens in ("logit", "tuned")}
    for index, batch in enumerate(subject.judge):
        streams = head.streams(batch)
        teacher, mask = head.read(streams[-1], batch), real_positions(batch)
        for layer, (hidden, linear) in enumerate(zip(streams, tuned, strict=True)):
            translated = hidden.float() + linear(hidden.float())
            sums[layer, "logit"].add(teacher, head.read(hidden, batch), mask)
            sums[layer, "tuned"].add(teacher, head.read(translated, batch), mask)
        subject.tell("reading after each block", index + 1, len(subject.judge))
    return {
        name: {
            f"{lens}_{key}": getattr(sums[layer, lens], attribute)
            for lens in ("logit", "tuned")
            for key, attribute in (("divergence", "value"), ("agreement", "agreement"))
        }
        for layer, name in enumerate(head.names)
    }


def _attribute(subject: Subject, head: Readout) -> tuple[dict[str, float], str]:
    """Part of the stream -> what it adds, on average, to the centred logit of the model's own answer; or why not."""
    sums: dict[str, float] = {}
    tokens = 0
    for index, batch in enumerate(subject.judge):
        entering = head.replay.block_inputs(batch)
        logits = main_output(head.read(entering[-1], batch))
        found = head_of(subject.model, subject.anatomy, entering[-1], logits)
        if not isinstance(found, Head):
            return {}, found
        answers, scales, mask = logits.argmax(-1), found.scales(entering[-1]), real_positions(batch)
        parts = parts_of(head.replay, subject.anatomy, entering, batch)
        shares = {name: found.shares(part, scales, answers) for name, part in parts.items()}
        shares["biases"] = found.constant(answers)
        for name, share in shares.items():
            sums[name] = sums.get(name, 0.0) + float(real_rows(share[..., None], mask).double().sum())
        tokens += len(real_rows(answers[..., None], mask))
        subject.tell("attributing answers", index + 1, len(subject.judge))
    return {name: total / tokens for name, total in sums.items()}, ""


def _words(subject: Subject, head: Readout) -> list[list[str]]:
    """A row a token of one passage: the token, then what the logit lens reads there after each block."""
    batch = {key: tensor[:1] for key, tensor in subject.judge[0].items()}
    ids = batch.get("decoder_input_ids", batch.get("input_ids"))
    streams = head.streams(batch)
    answers = [main_output(head.read(hidden, batch)) for hidden in streams]
    if ids is None or subject.tokenizer is None or answers[0].shape[:2] != ids.shape:
        return []
    shown = min(SHOWN, int(ids.shape[1]))
    if answers[0].shape[-1] < len(subject.tokenizer):
        return []  # a classifier's answers are no words
    return [
        [subject.tokenizer.decode([int(ids[0, t])])]
        + [subject.tokenizer.decode([int(read[0, t].argmax())]) for read in answers]
        for t in range(shown)
    ]


def _sections(found: dict[str, Any], words: list[list[str]]) -> list[Section]:
    layers, added = found["layers"], found["attribution"]
    roles = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in added if n.rsplit(".", 1)[0] in layers))
    columns = [
        Column("logit lens", "divergence of what the head reads here from the model's answer", log=True),
        Column("tuned lens", "the same after the block's translator", log=True),
        Column("logit agrees", "share of positions with the model's answer on top"),
        Column("tuned agrees", "the same after the block's translator"),
        *[Column(f"{role} adds", f"{role}: mean share of the centred logit of the answer") for role in roles],
        Column("block adds", "the block as a whole: mean share of the centred logit of the answer"),
    ]
    keys = ("logit_divergence", "tuned_divergence", "logit_agreement", "tuned_agreement")
    rows = [
        (name, [*(row[key] for key in keys), *(added.get(f"{name}.{role}") for role in roles), added.get(name)])
        for name, row in layers.items()
    ]
    rest = [f"{name} {value:.3g}" for name, value in added.items() if name in ("embedding", "biases")]
    told = (
        f"Besides: {', '.join(rest)}; all shares add up to the logit."
        if added
        else (f"No sublayer's share is shown: {found['no_attribution']}.")
    )
    made = [heat_map("What is read after each block", columns, rows, told)]
    if words:
        read = [[repr(word) for word in row] for row in words]
        text = "A row a token of one held-out passage: what the logit lens would answer after each block."
        made.append(table("One passage", ["token", *layers], read, text))
    return made
