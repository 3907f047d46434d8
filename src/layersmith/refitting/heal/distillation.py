"""Healing: train the whole student to match the original on real text, and keep the result only if it helps.

Loss, as in Puzzle (arXiv 2411.19146): sum over blocks of 1 - cos(h_student, h_teacher), plus KL(teacher || student)
of the next-token distributions. No language-model loss: matching the teacher is the aim. Held-out KL is watched all
along; the best state wins, and if no state beats the unhealed student, the student is rolled back to it.

Steps of healing are smaller than half precision can hold. So a student in half precision is trained as a float32 copy,
and what is watched, kept and returned is that copy's state rounded to the student's own dtypes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy
from layersmith.anatomy.running import plainly
from layersmith.errors import UserError
from layersmith.measuring.divergence import divergence
from layersmith.refitting.heal.adapters import build_adapter
from layersmith.refitting.heal.formats import trainable_formats
from layersmith.refitting.heal.loss import Batch, add_gradients, hidden_states, rows_at_once, tokens_of
from layersmith.refitting.heal.state import Best
from layersmith.runs.workspace import Workspace


@dataclass
class Healing:
    """What happened: steps run, tokens seen, the curve, and whether the unhealed student was kept."""

    steps: int
    tokens: int
    curve: list[dict[str, float]]
    stopped_early: bool = False
    rolled_back: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class HealSettings:
    """steps of one batch each; held-out checks every `check_every`; stop after `patience` checks without a best.

    While none has been better than no healing at all, `hope` checks are enough, and one alone that is `lost` times as
    far from the teacher: an exact mix has nothing to gain.

    adapter  name of what is trained instead of the weights (`heal.adapters`), which the student was given a place for
    """

    steps: int
    lr: float = 1e-3
    check_every: int = 25
    patience: int = 6
    hope: int = 3
    lost: float = 10.0
    seed: int = 0
    adapter: str | None = None


def heal(
    student: nn.Module,
    teacher: nn.Module,
    anatomy: Anatomy,
    batches: list[Batch],
    heldout: list[Batch],
    settings: HealSettings,
    *,
    workspace: Workspace | None = None,
    name: str = "heal",
    tell: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Healing:
    """Train `student` in place. Resumes from `workspace` files called `name` when they are there.

    Matrices in number formats are trained as well, through their rounding (`formats`). With an adapter, it alone is
    trained, and at the end it is merged or part of the student.
    Raises UserError when the loss is not finite (the student is left rolled back).
    """
    adapter = settings.adapter and build_adapter(settings.adapter)
    with adapter.training(student, anatomy, settings.seed) if adapter else trainable_formats(student):
        return _heal(student, teacher, anatomy, (batches, heldout), settings, workspace=workspace, name=name, tell=tell)


def _heal(
    student: nn.Module,
    teacher: nn.Module,
    anatomy: Anatomy,
    texts: tuple[list[Batch], list[Batch]],
    settings: HealSettings,
    *,
    workspace: Workspace | None,
    name: str,
    tell: Callable[[str, int, int], None],
) -> Healing:
    batches, heldout = texts
    trained = copy.deepcopy(student).float() if _has_half_precision(student) else student
    parameters = [p for p in trained.parameters() if p.requires_grad and p.is_floating_point()]
    # Not fused, though that takes less memory: its steps do not count as writes to a tensor (torch 2.13), and weights
    # behind a number format are rounded anew when they were written to (`formats`).
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0, betas=(0.9, 0.98), fused=False)
    course = (_load(workspace, name, optimizer, parameters) if workspace else None) or _start(
        student, divergence(teacher, student, heldout).value, Best(workspace, name)
    )
    healing = course.healing
    # Both in eval mode throughout: dropout would only add noise to a target that is known exactly.
    for model in (teacher, student, trained):
        model.eval()
    running: list[float] = []
    rows = rows_at_once(teacher, batches[0])
    # Without caches: RWKV writes its state in place, which no gradient survives.
    with (
        plainly(teacher),
        plainly(trained),
        hidden_states(teacher, anatomy) as of_teacher,
        hidden_states(trained, anatomy) as of_student,
    ):
        while healing.steps < settings.steps and not course.is_over(settings):
            step = healing.steps
            batch = batches[_shuffled(len(batches), step, settings.seed)]
            loss = add_gradients(trained, teacher, batch, rows, of_student, of_teacher)
            if not math.isfinite(loss):
                course.best.give(course.best_step, student)
                raise UserError(
                    f"Healing diverged at step {step}: the loss is not finite. The best earlier state was kept. Try a "
                    f"smaller learning rate (--heal-lr {settings.lr / 4:g})."
                )
            _update(optimizer, parameters, settings.lr * _schedule(step, settings.steps))
            running.append(loss)
            healing.steps += 1
            healing.tokens += tokens_of(batch)
            tell("healing", healing.steps, settings.steps)
            if healing.steps % settings.check_every == 0 or healing.steps == settings.steps:
                if trained is not student:
                    student.load_state_dict(trained.state_dict())  # rounds to the student's dtypes
                course.check(student, _heldout_error(teacher, student, heldout), sum(running) / len(running))
                running.clear()
                if workspace:
                    _save(workspace, name, course, optimizer, parameters)
    healing.stopped_early = healing.steps < settings.steps
    healing.rolled_back = course.best_error >= healing.curve[0]["heldout_divergence"]
    course.best.give(course.best_step, student)
    return healing


@dataclass
class Course:
    """Where a healing stands: what happened, when it was best, and how many checks have not bettered that."""

    healing: Healing
    best_error: float
    best: Best
    best_step: int = 0
    bad_checks: int = 0

    def is_over(self, settings: HealSettings) -> bool:
        """Whether more steps are not worth their time."""
        before, now = (self.healing.curve[i]["heldout_divergence"] for i in (0, -1))
        if self.best_error < before:
            return self.bad_checks >= settings.patience
        too_far = self.bad_checks > 0 and now > settings.lost * max(before, 0.0)
        return too_far or self.bad_checks >= min(settings.hope, settings.patience)

    def check(self, student: nn.Module, error: float, train_loss: float) -> None:
        """Take in a held-out check of the student as it is now."""
        self.healing.curve.append({"step": self.healing.steps, "train_loss": train_loss, "heldout_divergence": error})
        self.bad_checks = 0 if error < self.best_error else self.bad_checks + 1
        if error < self.best_error:
            self.best_error, self.best_step = error, self.healing.steps
            self.best.put(self.best_step, student)


def _update(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _has_half_precision(model: nn.Module) -> bool:
    return any(p.is_floating_point() and p.dtype.itemsize < 4 for p in model.parameters())


def _heldout_error(teacher: nn.Module, student: nn.Module, heldout: list[Batch]) -> float:
    """Held-out divergence; infinite for a student whose outputs are not finite (it can never be the best one)."""
    try:
        return divergence(teacher, student, heldout).value
    except UserError:  # what it raises for outputs that are not finite
        return math.inf


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 5 %, then cosine to 5 % of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _shuffled(count: int, step: int, seed: int) -> int:
    """Index of the batch of a step: every epoch its own permutation, a function of the step alone (so resumable)."""
    epoch, place = divmod(step, count)
    draw = torch.Generator().manual_seed(seed * 7919 + epoch)
    return int(torch.randperm(count, generator=draw, device="cpu")[place])


def _start(student: nn.Module, error: float, best: Best) -> Course:
    best.put(0, student)
    return Course(Healing(0, 0, [{"step": 0, "heldout_divergence": error}]), error, best)


def _save(
    workspace: Workspace,
    name: str,
    course: Course,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> None:
    healing = course.healing
    tensors: dict[str, Tensor] = {}
    for i, p in enumerate(parameters):
        tensors[f"now.{i}"] = p.detach()
        for key, value in optimizer.state[p].items():
            tensors[f"adam.{i}.{key}"] = value
    # One file holds the state and its bookkeeping, so they can never disagree after a kill. The best state, which it
    # names by its step, was stored before it.
    numbers = [course.best_error, course.best_step, course.bad_checks, healing.steps, healing.tokens]
    tensors["numbers"] = torch.tensor(numbers, dtype=torch.float64)
    columns = [[c["step"], c.get("train_loss", math.nan), c["heldout_divergence"]] for c in healing.curve]
    tensors["curve"] = torch.tensor(columns, dtype=torch.float64)
    workspace.save_tensors(name, tensors)
    for step in {point["step"] for point in healing.curve} - {course.best_step}:
        course.best.forget(int(step))


def _load(
    workspace: Workspace,
    name: str,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> Course | None:
    tensors = workspace.load_tensors(name)
    if tensors is None:
        return None
    best_error, *counts = tensors["numbers"].tolist()
    best_step, bad_checks, steps, tokens = map(int, counts)
    best = Best(workspace, name)
    if not best.has(best_step):
        return None
    with torch.no_grad():
        for i, p in enumerate(parameters):
            p.copy_(tensors[f"now.{i}"])
            prefix = f"adam.{i}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            optimizer.state[p] = {k: v.to(p.device) if k != "step" else v for k, v in state.items()}
    curve = [
        {"step": int(s), **({} if math.isnan(t) else {"train_loss": t}), "heldout_divergence": k}
        for s, t, k in tensors["curve"].tolist()
    ]
    return Course(Healing(steps, tokens, curve), best_error, best, best_step, bad_checks)
