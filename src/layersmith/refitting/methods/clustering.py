"""k-means, for methods that start a table or a codebook near what a trained layer does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, rounds: int = 10, seed: int = 0) -> Tensor:
    """Centroids (clusters, D) of points (n, D); clusters that lose all their points keep their last centroid.

    They start at distinct points drawn at random; with fewer points than clusters, points repeat with small noise.
    """
    draw: Any = {"generator": torch.Generator().manual_seed(seed), "device": "cpu"}
    n = len(points)
    start = torch.cat([torch.randperm(n, **draw) for _ in range(-(-clusters // n))])[:clusters]
    centroids = points[start].clone()
    if clusters > n:
        centroids[n:] += 0.1 * points.std() * torch.randn(clusters - n, points.shape[1], **draw).to(points)
    for _ in range(rounds):
        nearest = nearest_centroid(points, centroids)
        counts = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids)
    return centroids


def nearest_centroid(points: Tensor, centroids: Tensor) -> Tensor:
    """The index of the centroid closest to each point, (n,)."""
    return (centroids.square().sum(1) - 2 * points @ centroids.T).argmin(1)
