"""Pathfinder: a flood fill from one mark reaches the other exactly where the answer says so."""

from __future__ import annotations

import pytest

from layersmith.racing.tasks.pathfinder import Pathfinder

from .small import draw


def components(picture: list[list[int]]) -> list[set[tuple[int, int]]]:
    left = {(r, c) for r, row in enumerate(picture) for c, value in enumerate(row) if value}
    found = []
    while left:
        frontier, reached = [left.pop()], set()
        while frontier:
            r, c = frontier.pop()
            reached.add((r, c))
            near = {(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= near
            frontier += near
        found.append(reached)
    return found


@pytest.mark.parametrize(("side", "curves"), [(8, 2), (16, 3), (15, 5)])
def test_answers(side: int, curves: int) -> None:
    batch = draw(Pathfinder(side, curves), 300)
    pictures = batch.inputs.reshape(300, side, side).tolist()
    pieces = set()
    for picture, answer in zip(pictures, batch.targets.tolist(), strict=True):
        marks = [(r, c) for r, row in enumerate(picture) for c, value in enumerate(row) if value == 2]
        assert len(marks) == 2
        across = {marks[0][1], marks[1][1]} == {0, side - 1}
        down = {marks[0][0], marks[1][0]} == {0, side - 1}
        assert across or down, "the marks are on opposite sides"
        parts = components(picture)
        pieces.add(len(parts))
        assert answer == any(set(marks) <= part for part in parts)
    assert min(pieces) == curves
    assert max(pieces) > curves, "some curves are broken"


def test_constant_and_both_directions() -> None:
    task = Pathfinder()
    batch = draw(task, 4000)
    yes = float(batch.targets.double().mean())
    assert max(yes, 1 - yes) == pytest.approx(task.yardsticks()["constant"], abs=0.03)
    pictures = batch.inputs.reshape(-1, 16, 16)
    sideways = ((pictures[:, :, 0] == 2).any(1) & (pictures[:, :, -1] == 2).any(1)).double().mean()
    assert 0.45 < sideways < 0.6


def test_a_broken_curve_marked_at_both_ends_makes_a_no() -> None:
    """Only a gap of two columns tells it from a yes."""
    batch = draw(Pathfinder(), 800)
    gapped = 0
    for picture, answer in zip(batch.inputs.reshape(-1, 16, 16).tolist(), batch.targets.tolist(), strict=True):
        marked = [part for part in components(picture) if any(picture[r][c] == 2 for r, c in part)]
        if len(marked) != 2:
            assert answer == 1
            continue
        left, right = sorted(marked, key=lambda part: min(c for _, c in part))
        (r1, c1), (r2, c2) = max(left, key=lambda rc: rc[1]), min(right, key=lambda rc: rc[1])
        gapped += c2 - c1 == 3 and abs(r1 - r2) <= 3
    assert gapped > 20
