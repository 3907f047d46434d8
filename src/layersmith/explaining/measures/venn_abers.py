"""Venn-ABERS: probabilities for scores, as an interval that isotonic regression gives twice.

For a new score s, with the scores and answers (0 or 1) of a calibration set:

    p0 = f(s), f the isotonic regression of the set with (s, 0) added;   p1 likewise with (s, 1)
    p  = p1 / (1 - p0 + p1)         one number for both: what loses least in logarithmic loss, whichever is right

One of p0 and p1 is calibrated if scores are exchangeable. The regression is never done anew: pooling adjacent violators
from the left up to any score, and from the right down to it, is kept once as blocks, and the added point joins those
beside it.

Paper: Vovk, Petej & Fedorova 2015, "Large-scale probabilistic predictors with and without guarantees of validity",
arXiv 1511.00213 (the inductive predictor and p).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate


class VennAbers:
    """Fitted to a calibration set: `scores`, any numbers, and `answers`, true where what was scored was so."""

    def __init__(self, scores: Sequence[float], answers: Sequence[bool]):
        if not scores or len(scores) != len(answers):
            raise ValueError(f"Calibration needs as many scores as answers: {len(scores)} and {len(answers)}.")
        pairs = sorted(zip(scores, map(float, answers), strict=True))
        self.scores = sorted(set(scores))
        ends = [bisect_right(pairs, (score, 1.0)) for score in self.scores]
        sums = [0.0, *accumulate(answer for _, answer in pairs)]
        self._weight, self._sum = [0, *ends], [0.0, *(sums[end] for end in ends)]
        self._first, self._last = self._pooled()

    def interval(self, score: float) -> tuple[float, float]:
        """(p0, p1) of a new score."""
        low, high = self._with(score, 0.0), self._with(score, 1.0)
        return low, high

    def _mean(self, first: int, last: int) -> float:
        """Mean answer of the different scores number first to last."""
        return (self._sum[last + 1] - self._sum[first]) / (self._weight[last + 1] - self._weight[first])

    def _pooled(self) -> tuple[list[int], list[int]]:
        """For every score: where its block begins when nothing comes after it, and ends when nothing comes before."""
        count = len(self.scores)
        first, last = list(range(count)), list(range(count))
        for i in range(count):
            while first[i] > 0 and self._mean(first[first[i] - 1], first[i] - 1) >= self._mean(first[i], i):
                first[i] = first[first[i] - 1]
        for i in reversed(range(count)):
            while last[i] < count - 1 and self._mean(i, last[i]) >= self._mean(last[i] + 1, last[last[i] + 1]):
                last[i] = last[last[i] + 1]
        return first, last

    def _with(self, score: float, answer: float) -> float:
        """The isotonic regression at a score that is added with this answer."""
        left, right = bisect_left(self.scores, score) - 1, bisect_right(self.scores, score)
        weight = 1 + self._weight[right] - self._weight[left + 1]
        total = answer + self._sum[right] - self._sum[left + 1]
        while True:
            if left >= 0 and self._mean(self._first[left], left) >= total / weight:
                begin = self._first[left]
                weight += self._weight[left + 1] - self._weight[begin]
                total += self._sum[left + 1] - self._sum[begin]
                left = begin - 1
            elif right < len(self.scores) and total / weight >= self._mean(right, self._last[right]):
                end = self._last[right] + 1
                weight += self._weight[end] - self._weight[right]
                total += self._sum[end] - self._sum[right]
                right = end
            else:
                return total / weight


def merged(low: float, high: float) -> float:
    """One probability for the interval (p0, p1)."""
    return high / (1 - low + high)


def calibration_error(chances: Sequence[float], answers: Sequence[bool], bins: int = 15) -> float:
    """Expected calibration error: |mean chance - share that was so|, averaged over equal bins by their sizes."""
    found: dict[int, list[tuple[float, bool]]] = {}
    for chance, answer in zip(chances, answers, strict=True):
        found.setdefault(min(int(chance * bins), bins - 1), []).append((chance, answer))
    return sum(abs(sum(c for c, _ in pairs) - sum(a for _, a in pairs)) for pairs in found.values()) / len(chances)


def brier(chances: Sequence[float], answers: Sequence[bool]) -> float:
    """Mean squared distance of a chance from what was so (1) or not (0)."""
    return sum((c - a) ** 2 for c, a in zip(chances, answers, strict=True)) / len(chances)
