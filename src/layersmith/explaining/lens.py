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

import torch
from torch import Tensor, nn

from layersmith.anatomy import Replay
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.attribution import Head, head_of, parts_of
from layersmith.explaining.floors import ridge
from layersmith.explaining.sections import Column, Section, heat_map, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.divergence import (
    Divergence,
    is_distribution,
    main_output,
    real_positions,
    real_rows,
    token_kl,
)

Batch = dict[str, Tensor]

#: Tokens whose readings are shown.
SHOWN = 10
RATE = 3e-4


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
            count = _record(subject, head)
            tuned = [_translator(subject, head, layer, count, settings["steps"]) for layer in range(len(head.blocks))]
            for layer in range(len(head.blocks)):
                for index in range(count):
                    subject.workspace.remove(_stream(layer, index))
            read = _judge(subject, head, tuned)
            added, why = _attribute(subject, head)
            words = _words(subject, head)
        found = {"layers": read, "attribution": added, "no_attribution": why}
        return {**found, "sections": _sections(found, words)}


class Readout:
    """The model's own head: what follows the last block. `blocks` are the places of the last stack among all."""

    def __init__(self, subject: Subject):
        self.replay: Replay = subject.replay
        stack = list(subject.anatomy.blocks.values())[-1]
        self.names = [next(s.name for s in subject.anatomy.of_kind("block") if s.modules[0] == path) for path in stack]
        self.blocks = [self.replay.blocks.index(path) for path in stack]
        batch = subject.judge[0]
        expected = main_output(self._whole(batch))
        found = main_output(self.read(self.replay.block_inputs(batch)[-1], batch))
        if not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
            raise UserError(
                f"{type(subject.model).__name__} does not answer from the stream of its last block alone, so no lens "
                f"can read the streams before it."
            )

    def streams(self, batch: Batch) -> list[Tensor]:
        """(B, T, D) after each block of the stack; the last is what the model answers from."""
        entering = self.replay.block_inputs(batch)
        return [entering[block + 1] for block in self.blocks]

    def read(self, hidden: Tensor, batch: Batch) -> Any:
        """The model's output when `hidden` leaves the last block."""
        if self.replay.exact:
            return self.replay.run_from(self.replay.n_blocks, hidden, batch)
        last = self.replay.model.get_submodule(self.replay.blocks[-1])
        handle = last.register_forward_hook(lambda module, args, output: _with_first(output, hidden))
        try:
            return self._whole(batch)
        finally:
            handle.remove()

    def _whole(self, batch: Batch) -> Any:
        return self.replay.run_from(0, self.replay.block_inputs(batch)[0] if self.replay.exact else None, batch)


def _with_first(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden


# -- the tuned lens -----------------------------------------------------------------------------------------------


def _record(subject: Subject, head: Readout) -> int:
    """Store the streams of the fit batches, one file a block and batch; returns how many batches there are."""
    for index, batch in enumerate(subject.fit):
        if not subject.workspace.has_tensors(_stream(len(head.blocks) - 1, index)):
            for layer, hidden in enumerate(head.streams(batch)):
                subject.workspace.save_tensors(_stream(layer, index), {"hidden": hidden.float()})
        subject.tell("recording the streams", index + 1, len(subject.fit))
    return len(subject.fit)


def _translator(subject: Subject, head: Readout, layer: int, count: int, steps: int) -> nn.Linear:
    """The translator of one block: h + linear(h) is to be read like the last stream."""
    name = f"translators/{layer:04d}"
    saved = subject.workspace.load_tensors(name)
    if saved is None:
        streams = [_load(subject, head, layer, index) for index in range(count)]
        last = [_load(subject, head, len(head.blocks) - 1, index) for index in range(count)]
        saved = _fitted(subject, head, streams, last, steps)
        subject.workspace.save_tensors(name, saved)
    linear = nn.Linear(*reversed(saved["weight"].shape)).to(subject.fit[0][next(iter(subject.fit[0]))].device)
    linear.load_state_dict(saved)
    subject.tell("tuning the lens", layer + 1, len(head.blocks))
    return linear.requires_grad_(False)


def _fitted(
    subject: Subject, head: Readout, streams: list[Tensor], last: list[Tensor], steps: int
) -> dict[str, Tensor]:
    """Ridge regression, then `steps` of Adam on one row of text each; the best on the last batch, which is held out."""
    masks = [_mask_of(batch, hidden) for batch, hidden in zip(subject.fit, last, strict=True)]
    x = torch.cat([real_rows(h, m) for h, m in zip(streams, masks, strict=True)]).double()
    y = torch.cat([real_rows(h, m) for h, m in zip(last, masks, strict=True)]).double()
    weight, bias = ridge(x, y - x)
    linear = nn.Linear(x.shape[1], x.shape[1]).to(x.device)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    held = len(streams) - 1
    if held < 1 or not is_distribution(head.read(last[held], subject.fit[held])):
        return _state(linear)

    def moved() -> float:
        return float(_loss(head, linear, streams[held], last[held], subject.fit[held]))

    best, state = moved(), _state(linear)
    optimiser = torch.optim.Adam(linear.parameters(), lr=RATE)
    for step in range(steps):
        index = step % held
        row = (step // held) % len(streams[index])
        batch = {key: tensor[row : row + 1] for key, tensor in subject.fit[index].items()}
        with torch.enable_grad():
            loss = _loss(head, linear, streams[index][row : row + 1], last[index][row : row + 1], batch)
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        if (step + 1) % 8 == 0 or step + 1 == steps:
            found = moved()
            if found < best:
                best, state = found, _state(linear)
    return state


def _loss(head: Readout, linear: nn.Linear, stream: Tensor, last: Tensor, batch: Batch) -> Tensor:
    """Mean KL of what the tuned lens reads from what the model answers."""
    teacher = main_output(head.read(last, batch)).detach()
    student = main_output(head.read(stream + linear(stream), batch))
    mask = real_positions(batch)
    return token_kl(real_rows(teacher, mask), real_rows(student, mask)).mean()


def _mask_of(batch: Batch, hidden: Tensor) -> Tensor | None:
    mask = real_positions(batch)
    return mask if mask is not None and mask.shape == hidden.shape[:2] else None


def _state(linear: nn.Linear) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in linear.state_dict().items()}


def _load(subject: Subject, head: Readout, layer: int, index: int) -> Tensor:
    stored = subject.workspace.load_tensors(_stream(layer, index))
    if stored is None:  # removed or damaged: made again
        return head.streams(subject.fit[index])[layer].float()
    return stored["hidden"].to(next(iter(subject.fit[index].values())).device)


def _stream(layer: int, index: int) -> str:
    return f"streams/{layer:04d}-{index:04d}"


# -- what is measured ---------------------------------------------------------------------------------------------


def _judge(subject: Subject, head: Readout, tuned: list[nn.Linear]) -> dict[str, dict[str, Any]]:
    """Block -> how far both lenses read from the model's answer, on the judge batches."""
    sums = {(layer, lens): Divergence() for layer in range(len(tuned)) for lens in ("logit", "tuned")}
    for index, batch in enumerate(subject.judge):
        streams = head.streams(batch)
        teacher, mask = head.read(streams[-1], batch), real_positions(batch)
        for layer, (hidden, linear) in enumerate(zip(streams, tuned, strict=True)):
            translated = (hidden.float() + linear(hidden.float())).to(hidden.dtype)
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
