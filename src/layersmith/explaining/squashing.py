"""What a long text leaves of its last token: texts that differ in one token more or less, and tokens that are not felt.

For passages s_1 .. s_n and each length n = 4, 8, ... the stream that the last token leaves the last block with, h, and

    distance   ||h - h'||_1 / ||h||_1, h' of the same text with its last token once more                    `text`
               the same for a text of one token, n - 1 and n times, after the first of the passage       `repeats`
    rounded    the share of entries of h and h' that are the same number in bfloat16
    alike      the share of passages whose most likely next token is the same for both

A model that counts keeps the distance; one whose looks spread over the text loses it as n grows, and what is far below
the spacing of the number format (2^-8 of an entry in bfloat16) is lost on all that follows.

`felt` is the size of the derivative of h in each token of the passage, ||dh / dx_i||, estimated by random directions
and summed over eighths of the text, as a share of the whole: how much hangs on early and on late tokens.

Paper: "Transformers need glasses! Information over-squashing in language tasks", arXiv 2406.04267 (texts of one token,
collapse in low precision, derivatives; from its abstract and from memory).
Differs from the paper: the model is not run in low precision, its streams are rounded; nothing is asked of it in words.
The bounds are the construction `collapse`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.passages import check_foretells, unpadded
from layersmith.explaining.readout import Readout
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.divergence import main_output

KINDS, FIGURES = ("text", "repeats"), ("distance", "rounded", "alike")
#: Parts of a text whose derivatives are added up.
PARTS = 8


class Squashing(Survey):
    name = "squashing"
    summary = "How much of a long text a language model's last token still tells, and which tokens it hangs on."
    papers = ("transformers-need-glasses-information-over",)
    settings: ClassVar[Settings] = {"passages": 8, "directions": 4}

    def check(self, settings: Settings) -> None:
        for name in ("passages", "directions"):
            if settings[name] < 1:
                raise UserError(f"The setting {name} must be at least 1, not {settings[name]}.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        rows = [ids for ids in unpadded(subject) if len(ids) > PARTS][: settings["passages"]]
        if not rows:
            raise UserError(
                "What is left of a long text is asked of a language model's, and there is no passage here of more than "
                f"{PARTS} tokens without padding."
            )
        with evaluating(subject.model):
            check_foretells(subject, rows[0], "Questions about the last token of a text")
            head = Readout(subject)
            lengths = _lengths(min(len(ids) for ids in rows))
            found: dict[str, Any] = {kind: {} for kind in KINDS}
            for index, n in enumerate(lengths):
                kept = subject.workspace.load_json(f"squashing/{n}")
                if kept is None:
                    kept = {kind: _compared(head, rows, n, kind) for kind in KINDS}
                    subject.workspace.save_json(f"squashing/{n}", kept)
                for kind in KINDS:
                    found[kind][str(n)] = kept[kind]
                subject.tell("adding one token", index + 1, len(lengths))
            felt = _felt(subject, head, rows, settings["directions"]) if subject.replay.exact else []
        result = {"passages": len(rows), **found, "felt": felt}
        return {**result, "sections": _sections(result, subject)}


def _lengths(longest: int) -> list[int]:
    """4, 8, ... and one less than the longest, for the text with one token more has to fit in."""
    powers = [2**power for power in range(2, longest.bit_length()) if 2**power < longest - 1]
    return [*powers, longest - 1]


def _compared(head: Readout, rows: list[Tensor], n: int, kind: str) -> dict[str, float]:
    """The means over passages of what `FIGURES` says."""
    sums = dict.fromkeys(FIGURES, 0.0)
    for ids in rows:
        text = ids[:n] if kind == "text" else torch.cat((ids[:1], ids[len(ids) // 2].expand(n - 1)))
        one, answer = _last(head, text)
        two, other = _last(head, torch.cat((text, text[-1:])))
        sums["distance"] += float((one - two).abs().sum() / one.abs().sum())
        sums["rounded"] += float((one.bfloat16() == two.bfloat16()).double().mean())
        sums["alike"] += float(answer == other)
    return {name: total / len(rows) for name, total in sums.items()}


def _batch(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}


@torch.no_grad()
def _last(head: Readout, ids: Tensor) -> tuple[Tensor, int]:
    """(D,): the stream of the last token after the last block, and the token that is likeliest to follow."""
    batch = _batch(ids)
    stream = head.streams(batch)[-1]
    return stream[0, -1].float(), int(main_output(head.read(stream, batch))[0, -1].argmax())


def _felt(subject: Subject, head: Readout, rows: list[Tensor], directions: int) -> list[float]:
    """The shares of the eighths of a text, mean over passages."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.zeros(PARTS, dtype=torch.float64, device="cpu")
    for index, ids in enumerate(rows):
        slopes = derivatives(subject, head, ids, directions, generator)
        bounds = [len(ids) * part // PARTS for part in range(PARTS + 1)]
        parts = torch.stack([slopes[a:b].sum() for a, b in pairwise(bounds)])
        shares += parts / parts.sum() / len(rows)
        subject.tell("derivatives", index + 1, len(rows))
    return [float(share) for share in shares]


def derivatives(subject: Subject, head: Readout, ids: Tensor, directions: int, generator: torch.Generator) -> Tensor:
    """(T,) float64 on the CPU: ||dh_T / dx_i||, the root of the mean square over random directions of h."""
    batch, replay = _batch(ids), subject.replay
    with torch.no_grad():
        entering = replay.block_inputs(batch)[0]
    total = torch.zeros(len(ids), dtype=torch.float64, device="cpu")
    with torch.enable_grad():
        x = entering.detach().requires_grad_()
        calls = replay.capture_after(0, x, batch, replay.blocks[head.blocks[-1]])
        last = calls[-1].hidden[0, -1]
        for _ in range(directions):
            direction = torch.randn(len(last), generator=generator, device="cpu").to(last)
            (slope,) = torch.autograd.grad(last @ direction, x, retain_graph=True)
            total += slope[0].double().square().sum(-1).cpu() / directions
    return total.sqrt()


def _sections(found: dict[str, Any], subject: Subject) -> list[Section]:
    columns = ["tokens", *(f"{figure}, {kind}" for kind in KINDS for figure in FIGURES)]
    rows = [[n, *(found[kind][n][figure] for kind in KINDS for figure in FIGURES)] for n in found["text"]]
    text = (
        f"The last token after the last block, of a text and of the same with one token more; means over "
        f"{found['passages']} passages. Distance is relative; rounded is the share of entries that are one number in "
        "bfloat16; alike, of passages with the same answer. `repeats` are texts of a single token."
    )
    made = [table("One token more", columns, rows, text)]
    if found["felt"]:
        shares = [[f"{part + 1} of {PARTS}", share] for part, share in enumerate(found["felt"])]
        made.append(table("What the last token hangs on", ["part of the text", "share"], shares, _ABOUT_FELT))
    else:
        made.append({"title": "What the last token hangs on", "text": f"Not measured: {subject.replay.why}."})
    return made


_ABOUT_FELT = (
    "The size of the derivative of the last token's stream in the tokens of each eighth, as a share of the whole."
)
