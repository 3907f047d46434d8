"""Statistical top-k: about the k largest of n values, found from their mean and deviation alone, without sorting.

    theta = mean(x) + std(x) Phi^-1(1 - k / n)        Phi: the standard normal distribution function
    soft:  max(x - theta, 0)          hard:  x where x > theta, else 0

One pass over the values. For normal values about k of n lie above theta; for any values at all, the share above
mean + z std with z > 0 is at most 1 / (1 + z^2) (Cantelli's inequality), which `most_kept` turns into a count.

Paper: You et al. 2025, "Spark Transformer: Reactivating Sparsity in FFN and Attention", arXiv 2506.06644. Confirmed in
transformers' Gemma 3n, which uses it: threshold, deviation over n (not n - 1), soft threshold.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor


def quantile(k: int, n: int) -> float:
    """Phi^-1(1 - k / n): how many deviations above the mean theta lies. Minus infinity for k = n."""
    return float("-inf") if k >= n else NormalDist().inv_cdf(1 - k / n)


def threshold(x: Tensor, z: float) -> Tensor:
    """theta = mean + z std, (..., 1) in x's dtype, of values x (..., n); taken in float32 or wider."""
    if z == float("-inf"):
        return x.new_full((*x.shape[:-1], 1), z)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(-1, keepdim=True)
    variance = (wide - mean).square().mean(-1, keepdim=True)
    # Values that are all equal have variance 0, where the square root has no slope: there theta is their mean.
    return (mean + z * variance.clamp_min(1e-30).sqrt()).to(x.dtype)


def most_kept(k: int, n: int) -> int:
    """The largest number of n values that can exceed theta, whatever they are."""
    z = quantile(k, n)
    return n if z <= 0 else int(n / (1 + z * z))
