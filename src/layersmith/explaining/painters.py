"""What the middle blocks of a model share: they are left out, repeated, turned round, shuffled and run side by side.

The first N and the last N blocks run as always. With b_l the blocks between, M of them, the middle is

    skipped          nothing
    repeated         its central block, M times
    reversed         from the last to the first
    shuffled         in an order drawn at random; the mean over some orders
    parallel         h -> (1 / M) sum_l b_l(h), which is h and the mean of what they add
    looped parallel  the same several times over

and what is told is how far the model's predictions move, for several N. In the paper's models middle blocks bear all of
this far better than chance would have it, a repeated block worst of all, and looped blocks side by side best.

Paper: "Transformer Layers as Painters", arXiv 2407.09298. Differs: the divergence from the model's own predictions
instead of benchmarks; nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.sections import Column, Section, heat_map
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.divergence import Divergence, real_positions

Run = Callable[[int, Tensor], Tensor]
Plan = Callable[[Run, Tensor, list[int]], Tensor]

#: At how many N the plans are compared.
SIZES = 4


class Painters(Survey):
    name = "painters"
    summary = "What the middle blocks of a model share: left out, repeated, reordered and run side by side."
    papers = ("2407.09298",)
    settings: ClassVar[Settings] = {"first": 1, "orders": 3, "loops": 3}

    def check(self, settings: Settings) -> None:
        for name, least in (("first", 1), ("orders", 1), ("loops", 2)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        sizes = _sizes(subject, settings["first"])
        done = []
        for index, batch in enumerate(subject.judge):
            found = subject.workspace.load_json(f"painters/{index:04d}")
            if found is None:
                with evaluating(subject.model):
                    found = _on_batch(subject, batch, sizes, settings)
                subject.workspace.save_json(f"painters/{index:04d}", found)
            done.append(found)
            subject.tell("running the middle otherwise", index + 1, len(subject.judge))
        tokens = sum(each["tokens"] for each in done)
        plans = {
            name: {
                str(size): sum(each["moved"][name][str(size)] * each["tokens"] for each in done) / tokens
                for size in sizes
            }
            for name in done[0]["moved"]
        }
        middle = {str(size): subject.replay.n_blocks - 2 * size for size in sizes}
        result = {"blocks": subject.replay.n_blocks, "middle": middle, "plans": plans}
        return {**result, "sections": _sections(result)}


def skipped(run: Run, h: Tensor, middle: list[int]) -> Tensor:
    return h


def in_order(run: Run, h: Tensor, middle: list[int]) -> Tensor:
    for block in middle:
        h = run(block, h)
    return h


def repeated(run: Run, h: Tensor, middle: list[int]) -> Tensor:
    return in_order(run, h, [middle[len(middle) // 2]] * len(middle))


def turned_round(run: Run, h: Tensor, middle: list[int]) -> Tensor:
    return in_order(run, h, middle[::-1])


def shuffled(run: Run, h: Tensor, middle: list[int], seed: int) -> Tensor:
    """In the order of this seed, which is never the blocks' own."""
    generator, order = torch.Generator().manual_seed(seed), middle
    while order == middle:
        order = [middle[i] for i in torch.randperm(len(middle), generator=generator, device="cpu").tolist()]
    return in_order(run, h, order)


def side_by_side(run: Run, h: Tensor, middle: list[int], loops: int = 1) -> Tensor:
    for _ in range(loops):
        h = torch.stack([run(block, h) for block in middle]).mean(0)
    return h


def plans_of(settings: Settings) -> dict[str, list[Plan]]:
    """Name -> the ways of running the middle whose mean is told."""
    return {
        "skipped": [skipped],
        "repeated": [repeated],
        "reversed": [turned_round],
        "shuffled": [partial(shuffled, seed=seed) for seed in range(settings["orders"])],
        "parallel": [side_by_side],
        "looped parallel": [partial(side_by_side, loops=settings["loops"])],
    }


def _sizes(subject: Subject, first: int) -> list[int]:
    """Some N, from `first` up, that leave at least two blocks in the middle."""
    if not subject.replay.exact:
        raise UserError(f"The blocks of this model cannot be run in another order: {subject.replay.why}.")
    last = (subject.replay.n_blocks - 2) // 2
    if first > last:
        most = f"Set first to at most {last}" if last >= 1 else "Take a model of at least four"
        raise UserError(
            f"This model has {subject.replay.n_blocks} blocks, so there are fewer than two between its first {first} "
            f"and its last {first}, and no middle to run otherwise. {most}."
        )
    count = min(SIZES, last - first + 1)
    return sorted({first + round(i * (last - first) / max(1, count - 1)) for i in range(count)})


def _on_batch(subject: Subject, batch: dict[str, Tensor], sizes: list[int], settings: Settings) -> dict[str, Any]:
    replay, mask = subject.replay, real_positions(batch)
    entering = replay.block_inputs(batch)
    teacher = replay.run_from(replay.n_blocks, entering[-1], batch)
    moved: dict[str, dict[str, float]] = {}
    tokens = 0
    for name, plans in plans_of(settings).items():
        moved[name] = {}
        for size in sizes:
            middle, distance = list(range(size, replay.n_blocks - size)), Divergence()
            for plan in plans:
                after = plan(lambda block, h: replay.run_block(block, h, batch), entering[size], middle)
                distance.add(teacher, replay.run_from(replay.n_blocks - size, after, batch), mask)
            moved[name][str(size)], tokens = distance.value, distance.tokens // len(plans)
    return {"tokens": tokens, "moved": moved}


def _sections(found: dict[str, Any]) -> list[Section]:
    columns = [
        Column(f"{count} in the middle", f"divergence with the first and last {size} blocks as they are", log=True)
        for size, count in found["middle"].items()
    ]
    rows = [(name, [by_size[size] for size in found["middle"]]) for name, by_size in found["plans"].items()]
    text = (
        f"How far predictions move when those between the first and the last of {found['blocks']} blocks are run "
        "otherwise. Blocks that share a language bear being skipped and shuffled; one that is repeated does not."
    )
    return [heat_map("The middle blocks, run otherwise", columns, rows, text)]
