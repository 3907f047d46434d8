"""Who is ahead, and whether that is noise: paired bootstrap intervals of the difference to the best.

    d_s  = score of the best - score of the entrant, with seed s (the other way round where less is better)
    the mean of d over resampled seeds, its percentiles taken about the mean of d and stretched by
    sqrt(n / (n - 1)) t_{n-1} / z

Entrants of one seed see the same examples in the same order, so that what a seed makes easy or hard cancels. A
bootstrap of n = 3 values cannot be wider than they are, and without the stretch would call a difference real far too
often; with it an interval covers as often as it says, and for many seeds it is the plain percentile interval. The best
is found by looking, so that any of the k (k - 1) / 2 pairs may be the one compared: each gets its share of the error,
and the 95 % are those of the race.

Paper: Hesterberg 2014, "What Teachers Should Know about the Bootstrap", arXiv 1411.5279 (percentile intervals are too
narrow for few values, by this factor). Differs from the paper: it moves the percentiles instead, which 3 values lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from layersmith.racing.options import ENOUGH_SEEDS

AHEAD, BEHIND, SAME, FEW = "ahead", "behind", "not distinguishable", "too few seeds"
LEVEL = 0.95
RESAMPLES = 20_000


@dataclass(frozen=True)
class Verdict:
    """Of one entrant.

    mean        of its scores
    difference  mean of the best minus mean of this one, in the direction of better; 0 for the best
    interval    that covers the difference in 95 % of races; None for the best and with too few seeds
    word        "ahead", "behind", "not distinguishable", "too few seeds"
    """

    mean: float
    difference: float
    interval: tuple[float, float] | None
    word: str


def judge(scores: Mapping[str, Sequence[float]], higher_is_better: bool = True) -> dict[str, Verdict]:
    """The verdict on every entrant, best first; scores[entrant][i] is of the i-th seed."""
    sign = 1.0 if higher_is_better else -1.0
    arrays = {name: np.asarray(values, dtype=float) for name, values in scores.items()}
    ranked = sorted(arrays, key=lambda name: -sign * arrays[name].mean())  # stable: equal ones as they were given
    best, enough = ranked[0], len(arrays[ranked[0]]) >= ENOUGH_SEEDS
    pairs = len(ranked) * (len(ranked) - 1) / 2
    verdicts: dict[str, Verdict] = {}
    for name in ranked[1:]:
        differences = sign * (arrays[best] - arrays[name])
        interval = paired_interval(differences, (1 - LEVEL) / pairs) if enough else None
        word = FEW if interval is None else BEHIND if interval[0] > 0 else SAME
        verdicts[name] = Verdict(float(arrays[name].mean()), float(differences.mean()), interval, word)
    alone = all(verdict.word == BEHIND for verdict in verdicts.values())
    word = (AHEAD if alone else SAME) if enough else FEW
    return {best: Verdict(float(arrays[best].mean()), 0.0, None, word), **verdicts}


def paired_interval(differences: np.ndarray, error: float = 1 - LEVEL) -> tuple[float, float]:
    """The interval of the mean of paired differences that misses it with probability `error`. At least two of them."""
    count, mean = len(differences), differences.mean()
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(differences[drawn].mean(1), (error / 2, 1 - error / 2))
    stretch = (count / (count - 1)) ** 0.5 * stats.t.isf(error / 2, count - 1) / stats.norm.isf(error / 2)
    return float(mean - stretch * (mean - low)), float(mean + stretch * (high - mean))
