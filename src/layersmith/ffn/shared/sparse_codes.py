"""How a sparse dictionary's pre-activations become codes of which few are not zero; F features for each token.

    topk          the k largest of a token, through ReLU                        arXiv 2406.04093
    batch_topk    while training the k N largest of N tokens together; then those above one threshold
                                                                                 arXiv 2412.06410
    jumprelu      z where z > theta_i, else 0, with a learned theta >= 0 a feature    arXiv 2407.14435
    gated         where the gate's pre-activation is positive, ReLU of another one    arXiv 2404.16014
    relu          ReLU, kept sparse by an L1 penalty                             arXiv 2309.08600

All take and give (N, F). JumpReLU and the step that counts its features have no useful slope with respect to theta; the
published estimator (arXiv 2407.14435) takes their expected slope under a rectangle kernel of width `bandwidth`:

    d JumpReLU / d theta = -(theta / bandwidth) K((z - theta) / bandwidth)
    d step     / d theta = -(1 / bandwidth)     K((z - theta) / bandwidth),     K(u) = 1 for |u| < 1/2, else 0

and no slope of the step with respect to z.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("topk", "batch_topk", "jumprelu", "gated", "relu")
#: Features that the first pass of `largest` takes together: fewer groups are sorted, more candidates remain.
GROUP = 16


def largest(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and places, (N, k) each, of the k largest pre-activations of each token, in no order.

    The k largest lie in the k groups with the largest maxima, so only these are searched where that saves work.
    """
    tokens, features = pre.shape
    if features % GROUP or k * GROUP * 2 > features:
        values, places = pre.topk(k, sorted=False)
        return values, places
    groups = pre.view(tokens, features // GROUP, GROUP)
    best = groups.amax(-1).topk(k, sorted=False).indices
    candidates = groups.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    values, within = candidates.topk(k, sorted=False)
    places = best.gather(1, within // GROUP) * GROUP + within % GROUP
    return values, places


def batch_topk(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k N largest positive pre-activations of all N tokens, elsewhere 0; and the smallest of them, a scalar."""
    positive = F.relu(pre)
    if pre.numel() == 0:
        return positive, pre.new_zeros(())
    with torch.no_grad():
        # As many zeros as are chosen change nothing, so ties at the threshold may all stay.
        threshold = positive.flatten().topk(min(k * pre.shape[0], pre.numel()), sorted=False).values.min()
        kept = (positive >= threshold) & (positive > 0)
        smallest = positive[kept].min() if kept.any() else threshold
    return positive * kept, smallest


def above(pre: Tensor, threshold: Tensor) -> Tensor:
    """The positive pre-activations above their threshold, elsewhere 0."""
    return F.relu(pre) * (pre > threshold)


def gated(gate: Tensor, magnitude: Tensor) -> Tensor:
    """The positive magnitudes where the gate is open, elsewhere 0."""
    return F.relu(magnitude) * (gate > 0)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return above(pre, threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        (grad,) = grads
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(grad.dtype)
        to_threshold = -(threshold / ctx.bandwidth) * (near * grad).sum(0)
        return grad * (pre > threshold) * (pre > 0), to_threshold, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        (grad,) = grads
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(grad.dtype)
        return None, -(near * grad).sum(0) / ctx.bandwidth, None


def jumprelu(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """`above`, with the estimated slope with respect to the threshold (F,)."""
    codes: Tensor = _JumpReLU.apply(pre, threshold, bandwidth)
    return codes


def step(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where a feature is active, else 0, with the estimated slope with respect to the threshold (F,)."""
    active: Tensor = _Step.apply(pre, threshold, bandwidth)
    return active
