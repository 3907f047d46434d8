"""Feature maps of linear attention: phi with phi(q) . phi(k) in place of exp(q . k).

    elu1            elu(x) + 1                                                   F = d
    relu            max(x, 0)                                                    F = d
    silu            (silu(x) + 1/2) / |silu(x) + 1/2|                            F = d
    hedgehog        [softmax(W x), softmax(-W x)], W learned, for q and k apart  F = 2 d
    identity        x                                                            F = d
    random maps     from M frequencies w_1 .. w_M, the same for q and k, and x scaled by d^(-1/4):
      favor         exp(w_r . x - |x|^2 / 2) / sqrt(M)                           F = M, approaches exp(q . k / sqrt(d))
      positive      exp(w_r . x - |x|^2) / sqrt(M)                               F = M, approaches the Gaussian kernel
      cosine        [cos(w_r . x), sin(w_r . x)] / sqrt(M)                       F = 2 M, approaches it too

with Gaussian frequencies; the Gaussian kernel is exp(-|q - k|^2 / (2 sqrt(d))).

Frequencies are drawn when the map is built, and
    fixed           stay: Gaussian, in orthogonal groups of d ("favor")
    gmm             are mu_c + s_c * e_r, mean and scale of c components learned, e_r kept
    generative      are what a small network makes of the e_r
    fastfood        are rows of S H G P H B / d, H the Hadamard matrix, P a permutation, S, G and B learned diagonals

Shapes: x (B, H_kv, G, T, d), G query heads in a group (1 for keys) -> phi(x) (B, H_kv, G, T, F).

Papers: Katharopoulos et al. 2020, arXiv 2006.16236 (elu1); Zhang et al. 2024, arXiv 2402.04347, and arXiv 2410.10254
(hedgehog); Choromanski et al. 2020, arXiv 2009.14794 (favor); Chowdhury et al. 2021, "On Learning the Transformer
Kernel", arXiv 2110.08323 (gmm, generative, fastfood: scales, exponents and the product of matrices confirmed in the
released code, cs1160701/OnLearningTheKernel); Afzal et al. 2025, "Linear Attention for Efficient Bidirectional Sequence
Modeling", arXiv 2502.16249 (silu: confirmed in the released code, LIONS-EPFL/LION).
Differs from the papers: nothing is subtracted from the exponents, which cannot exceed |w|^2 / 2; frequencies are not
drawn anew in training. All maps start at or near Gaussian frequencies, orthogonal ones but for fastfood. In the code
of the learned ones none are orthogonal and all start elsewhere; gmm is one Gaussian a head, for cosines with a full
covariance and its mirror image; generative is a deeper network with batch norm and tanh, and noise is not added to it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.mixer.shared.chunked import precise


class Elu1(nn.Module):
    """elu(x) + 1, written so that it stays positive where the sum would round to 0."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) + x.clamp(max=0).exp()


class UnitSilu(nn.Module):
    """silu(x) + 1/2 at length 1: positive, since silu is nowhere below -0.28."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(F.silu(x) + 0.5, dim=-1)


class Hedgehog(nn.Module):
    """[softmax(W x), softmax(-W x)] per head, W starting as the identity."""

    def __init__(self, n_heads: int, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(head_dim).repeat(n_heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.weight.unflatten(0, x.shape[1:3])
        return torch.cat((x.softmax(-1), (-x).softmax(-1)), dim=-1)


class RandomFeatures(nn.Module):
    """A random map for every key-value head; `source` makes its frequencies, (H_kv, head_dim, M).

    damping   how much of |x|^2 is taken off the exponents of a positive map; None: cosines and sines
    """

    def __init__(self, source: nn.Module, damping: float | None):
        super().__init__()
        self.source, self.damping = source, damping

    def forward(self, x: Tensor) -> Tensor:
        x = precise(x) * x.shape[-1] ** -0.25
        frequencies = self.source().to(x.dtype).unsqueeze(1)
        angles, size = x @ frequencies, frequencies.shape[-1] ** -0.5
        if self.damping is not None:
            return (angles - self.damping * x.square().sum(-1, keepdim=True)).exp() * size
        return torch.cat((angles.cos(), angles.sin()), dim=-1) * size


class Fixed(nn.Module):
    """Gaussian frequencies, orthogonal in groups of head_dim, as long as independent ones would be."""

    frequencies: Tensor

    def __init__(self, n_heads: int, head_dim: int, features: int):
        super().__init__()
        self.register_buffer("frequencies", orthogonal(n_heads, head_dim, features))

    def forward(self) -> Tensor:
        return self.frequencies


class GaussianMixture(nn.Module):
    """mu_c + s_c * e_r: frequency r belongs to component r modulo their number."""

    noise: Tensor
    component: Tensor

    def __init__(self, n_heads: int, head_dim: int, features: int, components: int = 2):
        super().__init__()
        self.register_buffer("noise", orthogonal(n_heads, head_dim, features))
        self.register_buffer("component", torch.arange(features) % components)
        self.mean = nn.Parameter(torch.zeros(n_heads, head_dim, components))
        self.scale = nn.Parameter(torch.ones(n_heads, head_dim, components))

    def forward(self) -> Tensor:
        return self.mean[..., self.component] + self.scale[..., self.component] * self.noise


class Generator(nn.Module):
    """What two layers make of Gaussian noise, added to it: it starts close to the noise."""

    noise: Tensor

    def __init__(self, n_heads: int, head_dim: int, features: int):
        super().__init__()
        self.register_buffer("noise", orthogonal(n_heads, head_dim, features))
        self.hidden, self.out = nn.Linear(head_dim, 2 * head_dim), nn.Linear(2 * head_dim, head_dim)

    def forward(self) -> Tensor:
        noise = self.noise.mT
        return (noise + self.out(F.gelu(self.hidden(noise)))).mT


class Fastfood(nn.Module):
    """Blocks of S H G P H B / d on inputs filled up to a power of two d, each block with diagonals of its own."""

    hadamard: Tensor
    order: Tensor

    def __init__(self, n_heads: int, head_dim: int, features: int):
        super().__init__()
        size = 1 << (head_dim - 1).bit_length()
        blocks = math.ceil(features / size)
        self.head_dim, self.features = head_dim, features
        self.register_buffer("hadamard", hadamard(size), persistent=False)
        self.register_buffer("order", torch.stack([torch.randperm(size) for _ in range(n_heads * blocks)]))
        signs = torch.randint(0, 2, (n_heads, blocks, size)) * 2.0 - 1.0
        gauss = torch.randn(n_heads, blocks, size)
        lengths = torch.randn(n_heads, blocks, size, size).norm(dim=-1)
        self.b, self.g = nn.Parameter(signs), nn.Parameter(gauss)
        self.s = nn.Parameter(lengths * size**0.5 / gauss.norm(dim=-1, keepdim=True))

    def forward(self) -> Tensor:
        inner = self.hadamard * self.b[..., None, :]  # H B, (H_kv, blocks, d, d)
        order = self.order.unflatten(0, self.b.shape[:2])[..., None].expand_as(inner)
        mixed = self.hadamard @ (self.g[..., None] * inner.gather(-2, order))
        rows = self.s[..., None] * mixed / len(self.hadamard)
        return rows.flatten(1, 2)[:, : self.features, : self.head_dim].mT


SOURCES = {"favor": Fixed, "gmm": GaussianMixture, "generative": Generator, "fastfood": Fastfood}
#: Random maps -> (where their frequencies come from, the damping of `RandomFeatures`).
RANDOM: dict[str, tuple[str, float | None]] = {
    "favor": ("favor", 0.5),
    "gmm_positive": ("gmm", 1.0),
    "gmm_cosine": ("gmm", None),
    "generative_positive": ("generative", 1.0),
    "generative_cosine": ("generative", None),
    "fastfood_positive": ("fastfood", 1.0),
    "fastfood_cosine": ("fastfood", None),
}
FEATURE_MAPS = ("elu1", "relu", "silu", "hedgehog", "identity", *RANDOM)


def may_be_negative(name: str) -> bool:
    """Whether phi(q) . phi(k) can be negative."""
    return name == "identity" or name.endswith("_cosine")


def random_features(name: str, n_kv_heads: int, head_dim: int, features: int) -> RandomFeatures:
    """The random map of that name, for queries and keys alike."""
    source, damping = RANDOM[name]
    return RandomFeatures(SOURCES[source](n_kv_heads, head_dim, features), damping)


def plain_features(name: str, n_heads: int, head_dim: int) -> nn.Module:
    """The map of that name for the queries, or for the keys, of so many heads."""
    if name == "hedgehog":
        return Hedgehog(n_heads, head_dim)
    return {"elu1": Elu1, "relu": nn.ReLU, "silu": UnitSilu, "identity": nn.Identity}[name]()


def orthogonal(n_heads: int, head_dim: int, features: int) -> Tensor:
    """(n_heads, head_dim, features) Gaussian columns; those of a group of head_dim are orthogonal."""
    groups = math.ceil(features / head_dim)
    gauss = torch.randn(n_heads, groups, head_dim, head_dim)
    q, r = torch.linalg.qr(gauss)
    # The signs that the factorisation chose are taken back: without that no direction is as likely as any other.
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT  # rows
    lengths = torch.randn(n_heads, groups, head_dim, head_dim).norm(dim=-1, keepdim=True)
    return (directions * lengths).flatten(1, 2)[:, :features].mT.contiguous()


def hadamard(size: int) -> Tensor:
    """(size, size) of 1 and -1 with orthogonal rows; size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return matrix
