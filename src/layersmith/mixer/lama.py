"""LAMA: a few heads that each weigh all tokens once, by rank-one products of a context with every token.

    a_i(t) = (p_i . c) (q_i . x_t)      e(t) = tanh(a(t)) / |tanh(a(t))|_2 over the heads
    y      = W_o [sum_t softmax_t(e_1(t)) x_t ; ... ; sum_t softmax_t(e_H(t)) x_t]

c is one vector: learned (`context="learned"`), or the mean of the tokens ("mean"). There are no products of tokens
with tokens, so the cost is linear in their number; and what is put out is the same at every token, a summary of the
text. The causal form puts out the summary of what came so far, by sums that run along (`shared/running.py`).

Shapes: x (B, T, D), p and q (D, H) -> e (B, T, H) -> y (B, T, D); W_o (D, H D).
State: top, a, z (B, 1, H D) in at least float32, the sums as in `shared/running.py`.

Paper: Mehta et al. 2019, "Low Rank Factorization for Compact Multi-Head Self-Attention", arXiv 1912.00835. The formula
(tanh, norm over heads, softmax over tokens, mean as context) was confirmed in a port that is not the authors'
(JohnGiorgi/compact-multi-head-self-attention-pytorch); the learned context is from memory.
Differs from the paper: it pools the states of a recurrent network once, for a classifier; here W_o maps the summary
back and every token is given it, and the causal form, with a learned context alone, is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.errors import suggest
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.running import add_sums, running_sums

CONTEXTS = ("learned", "mean")
#: Below every sum and every norm that is not 0.
_TINY = 1e-30


class LAMA(Mixer):
    """Attention with one query a head for the whole text.

    d_model   width of the residual stream
    n_heads   summaries of the text
    causal    every token is given the summary of what came so far; False: of the whole text, and no state is accepted
    context   "learned", or "mean" of the tokens, which only the whole text has
    bias      of the map o
    """

    name = "lama"

    def __init__(
        self, d_model: int, n_heads: int = 4, causal: bool = True, context: str = "learned", bias: bool = False
    ):
        super().__init__()
        require_positive(LAMA, d_model=d_model, n_heads=n_heads)
        if context not in CONTEXTS:
            raise ValueError(f"LAMA: unknown context {context!r}. {suggest(context, list(CONTEXTS))}")
        if causal and context == "mean":
            raise ValueError("LAMA: context='mean' is that of the whole text, which a causal mixer has not read.")
        self.causal = self.streams = causal
        self.n_heads = n_heads
        self.p = nn.Linear(d_model, n_heads, bias=False)
        self.q = nn.Linear(d_model, n_heads, bias=False)
        self.c = nn.Parameter(torch.randn(d_model)) if context == "learned" else None
        self.o = nn.Linear(n_heads * d_model, d_model, bias=bias)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        with full_precision(x):
            scores, values = self._scores(x, mask), precise(x)
            y, new = self._running(scores, values, state) if self.causal else (_pooled(scores, values), None)
        return self.o(y.to(x.dtype)), new

    def _scores(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """e (B, T, H), -inf at padding."""
        context = _mean(x, mask) if self.c is None else self.c
        scores = torch.tanh(precise(self.p(context)) * precise(self.q(x)))
        scores = scores / scores.square().sum(-1, keepdim=True).clamp_min(_TINY).sqrt()
        return scores if mask is None else scores.masked_fill(~mask[..., None], -torch.inf)

    def _running(self, scores: Tensor, values: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The summaries (B, T, H D) of everything so far."""
        logits = scores.repeat_interleave(values.shape[-1], dim=-1)
        sums = running_sums(logits, values.repeat(1, 1, self.n_heads))
        if state is not None:
            sums = add_sums((state["top"], state["a"], state["z"]), sums)
        top, a, z = sums
        return a / z.clamp_min(_TINY), {"top": top[:, -1:], "a": a[:, -1:], "z": z[:, -1:]}


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, 1, D), of the real tokens."""
    if mask is None:
        return x.mean(1, keepdim=True)
    real = mask[..., None].to(x.dtype)
    return (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)


def _pooled(scores: Tensor, values: Tensor) -> Tensor:
    """The summaries (B, T, H D) of the whole text, the same at every token; zeros of a text that is all padding."""
    weights = scores.exp()  # scores lie between -1 and 1, or are -inf
    weights = weights / weights.sum(1, keepdim=True).clamp_min(_TINY)
    return (weights.mT @ values).flatten(1)[:, None].expand(-1, values.shape[1], -1)
