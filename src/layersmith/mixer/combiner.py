"""Combiner: exact attention within a token's own span, and to one summary of each earlier span, under one softmax.

    u = t // span
    kbar_w = pool_{s in w} k_s,      vbar_w = sum_{s in w} softmax_{s in w}(scale * pool_{t in w} q_t . k_s) v_s
    y_t = W_o concat_h  softmax over [scale * q_t . k_s for s <= t in u,  scale * q_t . kbar_w for w < u]
                        applied to   [v_s for s <= t in u,                 vbar_w for w < u]

so every earlier token has weight above 0 (the weight of its span's summary times its share there), while a text of T
tokens costs T (span + T / span): T^1.5 with span = sqrt(T).

Shapes: x (B, T, D) -> q (B, H, T, d), k and v (B, H_kv, T, d); kbar (B, H_kv, U, d), vbar (B, H, U, d) -> y (B, T, D).
State: q, k, v of the span begun, at most span - 1 tokens; kbar, vbar of the full ones; position (B,) with rope; real
(B, S) and full (B, U) bool, True at tokens and summaries that count, once a mask has been given.

Paper: Ren et al. 2021, "Combiner: Full Attention Transformer with Sparse Computation Cost", arXiv 2107.05768.
Combiner-Fixed confirmed in the released code (google-research/combiner, `sqrt_fixed_full`): one joint softmax, the
pooled query for the values, the pooled keys as they are.
Differs from the paper: only the fixed partition (Combiner-Logsparse and -Axial summarise other spans), only causal; the
default pool is the mean, where its language model has the maximum; a learned map and a ReLU before the pool (DeepSets)
are left out; spans count real tokens; key heads may be shared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State, require_positive
from layersmith.errors import suggest
from layersmith.mixer.shared.chunked import precise
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.inputs import packed_slots

POOLS = ("mean", "max")


class Combiner(HeadMixer):
    """Causal attention in spans with summaries of the earlier ones.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    span     tokens of a span
    pool     "mean" or "max", of the queries and keys of a span
    scale    factor on the scores; None = head_dim^-0.5
    """

    name = "combiner"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        span: int = 64,
        pool: str = "mean",
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
    ):
        super().__init__(
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            rope_theta=rope_theta,
            rope_fraction=rope_fraction,
            rope_interleaved=rope_interleaved,
            qk_norm=qk_norm,
            qk_norm_eps=qk_norm_eps,
            bias=bias,
            out_bias=out_bias,
        )
        require_positive(Combiner, span=span)
        if pool not in POOLS:
            raise ValueError(f"Combiner: unknown pool {pool!r}. {suggest(pool, list(POOLS))}")
        self.span, self.pool = span, pool
        self.scale = self.head_dim**-0.5 if scale is None else scale

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        new = q.shape[2]
        if state is not None:  # the tokens of the span begun are worked off again, with those that follow
            if mask is not None or "real" in state:
                begun = state["real"] if "real" in state else _all(state["k"])
                mask = torch.cat((begun, _all(k) if mask is None else mask), 1)
            q, k, v = (torch.cat((state[name], part), 2) for name, part in (("q", q), ("k", k), ("v", v)))
        if not q.shape[2]:
            return q, None if state is None else dict(state)
        slot = None
        if mask is not None:  # real tokens become neighbours, so that spans begin and end with them
            slot = packed_slots(mask)
            q, k, v = (part.scatter(2, _of_heads(slot, part), part) for part in (q, k, v))
        count = None if mask is None else mask.sum(1)
        y, kbar, vbar, full = self._spans(q, k, v, state, count)
        if slot is not None:
            y = y.gather(2, _of_heads(slot, y))
        rest = self._rest({"q": q, "k": k, "v": v}, {"kbar": kbar, "vbar": vbar}, full, count)
        return y[:, :, y.shape[2] - new :], rest

    def _spans(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, count: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(y (B, H, T, d), kbar, vbar of all full spans, which of them count); the first `count` tokens are real."""
        tokens, group = q.shape[2], q.shape[1] // k.shape[1]
        spans = -(-tokens // self.span)
        fill = (0, 0, 0, spans * self.span - tokens)
        q, k, v = (F.pad(part, fill).unflatten(2, (spans, self.span)) for part in (q, k, v))
        kbar, vbar = self._summaries(q, k, v)
        complete = tokens // self.span
        before = 0 if state is None else state["kbar"].shape[2]
        if state is not None:
            kbar, vbar = torch.cat((state["kbar"], kbar), 2), torch.cat((state["vbar"], vbar), 2)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        local = precise(q @ k.mT) * self.scale  # (B, H, U, span, span)
        far = precise(q.flatten(2, 3) @ kbar.repeat_interleave(group, 1).mT) * self.scale
        place = torch.arange(self.span, device=q.device)
        local = local.masked_fill(place > place[:, None], float("-inf"))
        own = torch.arange(spans, device=q.device).repeat_interleave(self.span) + before
        seen = torch.arange(before + spans, device=q.device) < own[:, None]
        full = None
        if count is not None:
            known = _all(state["kbar"]) if state is not None and "full" not in state else None
            known = state["full"] if state is not None and "full" in state else known
            of_new = (torch.arange(spans, device=q.device) + 1) * self.span <= count[:, None]
            full = of_new if known is None else torch.cat((known, of_new), 1)
            seen = (seen & full[:, None])[:, None]
        far = far.masked_fill(~seen, float("-inf"))
        weights = torch.cat((local.flatten(2, 3), far), -1).softmax(-1).to(v.dtype)
        near = weights[..., : self.span].unflatten(2, (spans, self.span)) @ v
        y = near.flatten(2, 3) + weights[..., self.span :] @ vbar
        y = y[:, :, :tokens]
        if full is None:
            return y, kbar[:, :, : before + complete], vbar[:, :, : before + complete], None
        if not torch.compiler.is_compiling():  # rows end where they end; what no row needs goes
            order = full.long().argsort(dim=1, stable=True)[:, full.shape[1] - int(full.sum(1).max()) :]
            kbar, vbar = kbar.gather(2, _of_heads(order, kbar)), vbar.gather(2, _of_heads(order, vbar))
            full = full.gather(1, order)
        return y, kbar, vbar, full

    def _summaries(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(kbar (B, H_kv, U, d), vbar (B, H, U, d)) of spans (B, H, U, span, d)."""
        group = q.shape[1] // k.shape[1]
        query, kbar = (part.mean(3) if self.pool == "mean" else part.amax(3) for part in (q, k))
        scores = precise(k.repeat_interleave(group, 1) @ query[..., None]) * self.scale  # (B, H, U, span, 1)
        return kbar, (scores.softmax(3).to(v.dtype) * v.repeat_interleave(group, 1)).sum(3)

    def _rest(self, tokens: State, summaries: State, full: Tensor | None, count: Tensor | None) -> State:
        """The state: the tokens of the span begun, and the summaries of the full ones."""
        slots = tokens["q"].shape[2]
        if count is None or full is None:
            begun = slots // self.span * self.span
            return {name: part[:, :, begun:] for name, part in tokens.items()} | summaries
        index = (count // self.span * self.span)[:, None] + torch.arange(min(self.span - 1, slots), device=count.device)
        real, index = index < count[:, None], index.clamp_max(slots - 1)
        kept = {name: part.gather(2, _of_heads(index, part)) for name, part in tokens.items()}
        return kept | summaries | {"real": real, "full": full}


def _of_heads(index: Tensor, x: Tensor) -> Tensor:
    """(B, N) places as an index into the tokens of x (B, H, T, d)."""
    return index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])


def _all(x: Tensor) -> Tensor:
    """(B, S): as many True as x (B, H, S, d) has tokens."""
    return x.new_ones(x.shape[0], x.shape[2], dtype=torch.bool)
