"""What in-context regression is held against: predictors that see the same examples, for every prefix at once.

All take xs (B, n, d) and ys (B, n), work in float64, and return predictions (B, n): number i is for ys[:, i] from the
examples before it and from xs[:, i]. With S_i = sum_{j<i} x_j x_j' and b_i = sum_{j<i} y_j x_j,

    ridge               w = (S + penalty I)^-1 b                       posterior mean if w ~ N(0, noise^2 / penalty I)
    least squares       w = S^+ b                                      of smallest norm where many fit
    gradient descent    w <- w + (b - S w) / (i + damping)             from 0, on half the squared error
    iterative Newton    M <- 2 M - M S M,  M_0 = S / |S|^2,  w = M b   M goes to S^+
    Bayes mixture       w = sum_c p_c w_c,  p_c ~ exp(-sum_{j<i} (y_j - w_c x_j)^2 / (2 noise^2))
    sparse Bayes        the mean of the ridge predictors of all supports, weighted by their evidence

For x ~ N(0, I) and w ~ N(0, scale^2 I) the best single step has damping = d + 1 + noise^2 / scale^2.

Papers: arXiv 2211.15661 (least squares, ridge and gradient descent as yardsticks), arXiv 2212.07677 (gradient descent),
"One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer of Linear Self-Attention" (its
rate), "Transformers Learn Higher-Order Optimization Methods for In-Context Learning" (iterative Newton; its first step
is twice ours, at which the largest eigenvalue does not converge), "Transformers can optimally learn regression mixture
models" (Bayes mixture).
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

#: Below this a noise would make the evidence of a hypothesis a yes or no that rounding decides.
LEAST_NOISE = 1e-3
#: Eigenvalues below this share of the largest are zero.
RANK = 1e-9


def moments(xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
    """S (B, n, d, d) and b (B, n, d) of the examples before each."""
    xs, ys = xs.double(), ys.double()
    return _before(xs[..., :, None] * xs[..., None, :]), _before(ys[..., None] * xs)


def ridge(xs: Tensor, ys: Tensor, penalty: float) -> Tensor:
    """Needs penalty > 0."""
    s, b = moments(xs, ys)
    return _read(torch.linalg.solve(s + penalty * torch.eye(s.shape[-1]).double(), b), xs)


def least_squares(xs: Tensor, ys: Tensor) -> Tensor:
    s, b = moments(xs, ys)
    return _read((torch.linalg.pinv(s, rtol=RANK, hermitian=True) @ b[..., None])[..., 0], xs)


def gradient_descent(xs: Tensor, ys: Tensor, steps: int, damping: float) -> Tensor:
    """Needs damping > 0."""
    s, b = moments(xs, ys)
    count = torch.arange(xs.shape[1])[:, None]
    w = torch.zeros_like(b)
    for _ in range(steps):
        w = w + (b - (s @ w[..., None])[..., 0]) / (count + damping)
    return _read(w, xs)


def newton(xs: Tensor, ys: Tensor, steps: int) -> Tensor:
    s, b = moments(xs, ys)
    m = s / torch.linalg.matrix_norm(s, 2)[..., None, None].square().clamp_min(1e-30)
    for _ in range(steps):
        m = 2 * m - m @ s @ m
    return _read((m @ b[..., None])[..., 0], xs)


def bayes_mixture(xs: Tensor, ys: Tensor, components: Tensor, noise: float) -> Tensor:
    """components  (m, d), equally likely"""
    guesses = xs.double() @ components.double().T
    misses = _before((ys.double()[..., None] - guesses).square())
    weights = (-misses / (2 * max(noise, LEAST_NOISE) ** 2)).softmax(-1)
    return (weights * guesses).sum(-1)


def sparse_bayes(xs: Tensor, ys: Tensor, sparsity: int, noise: float, scale: float) -> Tensor:
    """Under `sparsity` of the d weights from N(0, scale^2) and the rest 0, every support alike."""
    variance = max(noise, LEAST_NOISE) ** 2
    penalty = variance / scale**2
    s, b = moments(xs, ys)
    predictions, evidence = [], []
    for support in combinations(range(xs.shape[-1]), sparsity):
        inside = torch.tensor(support)
        gram = s[..., inside[:, None], inside] + penalty * torch.eye(sparsity).double()
        factor = torch.linalg.cholesky(gram)
        w = torch.cholesky_solve(b[..., inside, None], factor)[..., 0]
        # log N(y; 0, scale^2 X X' + variance I), less what all supports share
        explained = (b[..., inside] * w).sum(-1) / (2 * variance)
        evidence.append(explained - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1))
        predictions.append(_read(w, xs[..., inside]))
    return (torch.stack(evidence, -1).softmax(-1) * torch.stack(predictions, -1)).sum(-1)


def _before(values: Tensor) -> Tensor:
    """The sum of the values before each along dimension 1."""
    return values.cumsum(1) - values


def _read(w: Tensor, xs: Tensor) -> Tensor:
    return (w * xs.double()).sum(-1)
