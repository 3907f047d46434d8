"""Attention-free transformer: every feature takes its own weighted mean of the past, without a dot product.

    y_t = W_o ( sigmoid(q_t) * sum_s e^{k_s + w_ts} * v_s / sum_s e^{k_s + w_ts} )      over s <= t (not causal: all s)

with q, k, v of d_model numbers and everything between W_o and the projections element by element. The bias w of a pair
of places:
    simple    0                                                               a state of constant size
    full      u_t . u'_s, two vectors of `rank` numbers for each place        up to max_tokens tokens
    local     as full where |t - s| < window, elsewhere 0                     up to max_tokens tokens
    conv      one number per head and distance where |t - s| < window, elsewhere 0

Causal and simple, the sums run along (`shared/running.py`). The others are products of e^w with e^k v; the largest k of
a sequence is taken off before, so that in float32 tokens whose k is some 80 below it count for nothing.

Shapes: x (B, T, D) -> q, k, v (B, T, D) -> y (B, T, D).
State: simple: top, a, z (B, 1, D) in at least float32, the sums as in `shared/running.py`; else k, v (B, S, D) and
places (B, S) int64, -1 at padding.

Paper: Zhai et al. 2021, "An Attention Free Transformer", arXiv 2105.14103 (from memory, not confirmed).
Differs from the paper: kernels of `conv` are not reparameterised; it too multiplies the whole T x T square.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.errors import suggest
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.running import add_sums, running_sums
from layersmith.mixer.shared.token_places import new_places

KINDS = ("simple", "full", "local", "conv")


class AFT(Mixer):
    """Attention without queries and keys in a product.

    causal        False: every token reads the whole sequence, and no state is accepted
    kind          "simple", "full", "local" or "conv"
    max_tokens    places with a bias (full, local); longer texts are refused
    rank          numbers in the vectors whose products the biases are (full, local)
    window        how far apart two tokens may be to have a bias, themselves included (local, conv)
    n_heads       groups of features that share kernels (conv)
    bias          of the maps q, k, v and o
    """

    name = "aft"

    def __init__(
        self,
        d_model: int,
        causal: bool = True,
        kind: str = "simple",
        max_tokens: int = 1024,
        rank: int = 32,
        window: int = 32,
        n_heads: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        require_positive(AFT, d_model=d_model, max_tokens=max_tokens, rank=rank, window=window, n_heads=n_heads)
        if kind not in KINDS:
            raise ValueError(f"AFT: unknown kind {kind!r}. {suggest(kind, list(KINDS))}")
        if d_model % n_heads:
            raise ValueError(f"AFT: d_model={d_model} is not a multiple of n_heads={n_heads}.")
        self.causal = self.streams = causal
        self.kind, self.max_tokens, self.window, self.n_heads = kind, max_tokens, window, n_heads
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model, bias=bias) for _ in range(4))
        if kind in ("full", "local"):
            self.reader = nn.Parameter(torch.randn(max_tokens, rank) * 0.1)
            self.read = nn.Parameter(torch.randn(max_tokens, rank) * 0.1)
        if kind == "conv":
            self.kernel = nn.Parameter(torch.randn(n_heads, window if causal else 2 * window - 1) * 0.1)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        q, k, v = self.q(x).sigmoid(), precise(self.k(x)), precise(self.v(x))
        if mask is not None:
            k = k.masked_fill(~mask[..., None], -torch.inf)
        with full_precision(x):
            if self.kind == "simple":
                y, new = self._running(k, v, state) if self.causal else (_mean(k, v), None)
            else:
                y, new = self._weighted(k, v, x, state, mask)
        return self.o(q * y.to(x.dtype)), new

    def _running(self, k: Tensor, v: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The means of everything so far, by sums that run along."""
        if state is None:
            empty = k.new_zeros(k.shape[0], 1, k.shape[2])
            before = (empty - torch.inf, empty, empty)
        else:
            before = (state["top"], state["a"], state["z"])
        sums = add_sums(before, running_sums(k, v))
        top, a, z = sums
        return a / z.clamp(min=_TINY), {"top": top[:, -1:], "a": a[:, -1:], "z": z[:, -1:]}

    def _weighted(
        self, k: Tensor, v: Tensor, x: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        """The means under the biases of all pairs of places."""
        places = new_places(x, mask, None if state is None else state["places"])
        kept = places
        if state is not None:
            k, v = torch.cat((precise(state["k"]), k), 1), torch.cat((precise(state["v"]), v), 1)
            kept = torch.cat((state["places"], places), 1)
        if self.kind != "conv" and kept.shape[1] > self.max_tokens:
            self._refuse_longer(kept)
        size = (k - k.detach().amax(1, keepdim=True).clamp(min=_LOWEST)).exp()
        both = torch.cat((size * v, size), -1).unflatten(-1, (2, self.n_heads, -1)).permute(0, 3, 1, 2, 4)
        sums = self._weights(places, kept) @ both.flatten(3)  # (B, heads, T, 2 D / heads)
        a, z = sums.unflatten(-1, (2, -1)).permute(3, 0, 2, 1, 4).flatten(3)
        new = {"k": k.to(x.dtype), "v": v.to(x.dtype), "places": kept} if self.causal else None
        return a / z.clamp(min=_TINY), new

    def _weights(self, places: Tensor, kept: Tensor) -> Tensor:
        """e^w (B, heads or 1, T, S), 0 where s is not to be read."""
        lags = places[:, :, None] - kept[:, None, :]
        seen = (kept >= 0)[:, None, :] & ((lags >= 0) if self.causal else torch.ones_like(lags, dtype=torch.bool))
        near = lags.abs() < self.window
        if self.kind == "conv":
            reach = self.window - 1
            at = lags.clamp(0 if self.causal else -reach, reach) + (0 if self.causal else reach)
            w = precise(self.kernel)[:, at].movedim(0, 1) * near[:, None]
        else:
            w = (precise(self.reader)[places] @ precise(self.read)[kept].mT)[:, None]
            if self.kind == "local":
                w = w * near[:, None]
        return (w - w.detach().amax((2, 3), keepdim=True)).exp() * seen[:, None]

    def _refuse_longer(self, places: Tensor) -> None:
        """Unless all that is too much is padding."""
        longest = places.shape[1] if places.is_meta else int(places.max()) + 1
        if longest > self.max_tokens:
            raise ValueError(
                f"AFT: a text of {longest} tokens, and biases for {self.max_tokens} places. Build it with a larger "
                f"max_tokens, or with kind='simple' or 'conv', which have no length."
            )


#: Below every sum that is not 0; above it a quotient is as it should be.
_TINY = 1e-30
#: What is taken off keys where all are -inf.
_LOWEST = -1e30


def _mean(k: Tensor, v: Tensor) -> Tensor:
    """sum_s e^{k_s} v_s / sum_s e^{k_s} over the whole sequence, at every token."""
    size = (k - k.detach().amax(1, keepdim=True).clamp(min=_LOWEST)).exp()
    return ((size * v).sum(1, keepdim=True) / size.sum(1, keepdim=True).clamp(min=_TINY)).expand_as(v)
