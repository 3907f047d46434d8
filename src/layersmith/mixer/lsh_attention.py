"""LSH attention: tokens whose vectors hash to the same bucket attend to each other, and to no others.

    k_s = q_s / |q_s|                             queries are keys
    h_r(x) = argmax [x R_r, -x R_r]               the bucket of x in round r, R_r (d, buckets / 2) drawn once
    t sees s in round r   if s <= t, h_r(q_s) = h_r(q_t), and s is in the chunk of t within the bucket or the one before
    z_r(t) = logsumexp_s scale * q_t . k_s        over what is seen, and itself with a score of -1e5; scale = 1
    y_t = W_o concat_h sum_r softmax_r(z_r(t)) softmax_s(scale * q_t . k_s) v_s

A chunk is `chunk` tokens that follow each other within their bucket. Sorted by bucket and place, what a token sees
stands in the 2 chunk - 1 places before it: a text of T tokens costs rounds (T log T + T chunk) instead of T^2.

Shapes: x (B, T, D) -> q, k, v (B, H, T, head_dim) -> y (B, T, D).
State: k, v (B, H, S, head_dim); bucket (B, S, H, rounds) int16; position (B,) with rope; real (B, S) once a mask has
been given. A text that goes on from a state, or is padded, is computed with masks over all pairs.

Paper: Kitaev et al. 2020, "Reformer: The Efficient Transformer", arXiv 2001.04451. Confirmed in trax, the authors'
code, and in transformers' Reformer: the hash, keys of length 1, whose scores are not divided by sqrt(d) as well, the
score of the token itself, the weights of the rounds.
Differs from the paper: chunks are cut within each bucket. There the whole sorted text is cut, so that later tokens move
the borders for earlier ones, and a token's output depends on what follows it. Both codes also let tokens of two buckets
in one chunk see each other, which the equations do not. There directions are drawn anew in every pass of training,
here once, so that a text reads the same twice. Pairs that meet in several rounds are not counted down.
Reversible layers are an arrangement of blocks and not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import precise
from layersmith.mixer.shared.heads import HeadMixer, split_heads
from layersmith.mixer.shared.rope import rotary_table, rotate, token_positions

#: The score of a token with itself: it counts where there is nothing else to see.
OWN = -1e5


class LSHAttention(HeadMixer):
    """Causal attention among tokens of equal hash.

    d_model, n_heads, head_dim, bias, out_bias, rope_theta     as in `SoftmaxAttention`
    buckets   how many buckets there are, an even number
    rounds    how many hashes; more find more of the pairs that matter
    chunk     tokens of a bucket that see each other and the chunk before them
    scale     factor on the scores; None = 1, for keys have length 1
    """

    name = "lsh_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        head_dim: int | None = None,
        buckets: int = 32,
        rounds: int = 4,
        chunk: int = 64,
        rope_theta: float | None = None,
        bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
    ):
        super().__init__(d_model, n_heads, head_dim=head_dim, rope_theta=rope_theta, bias=bias, out_bias=out_bias)
        require_positive(LSHAttention, buckets=buckets, rounds=rounds, chunk=chunk)
        if buckets % 2:
            raise ValueError(f"LSHAttention: buckets={buckets} must be even: a direction has two ends.")
        del self.k, self.k_norm
        self.buckets, self.chunk = buckets, chunk
        self.scale = 1.0 if scale is None else scale
        self.directions: Tensor
        self.register_buffer("directions", torch.randn(n_heads, rounds, self.head_dim, buckets // 2))

    def project(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q, v = split_heads(self.q(x), self.head_dim), split_heads(self.v(x), self.head_dim)
        if self.rope_theta is not None:
            q = rotate(q, rotary_table(token_positions(x, mask, seen), self.rope_size, self.rope_theta, q.dtype))
        return q, F.normalize(q, dim=-1), v

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        bucket = self._hash(k)
        real = mask
        if state is not None:
            if mask is not None or "real" in state:
                before = state["real"] if "real" in state else _all(state["k"])
                real = torch.cat((before, _all(k) if mask is None else mask), 1)
            k, v = torch.cat((state["k"], k), 2), torch.cat((state["v"], v), 2)
            bucket = torch.cat((state["bucket"].permute(0, 2, 3, 1).long(), bucket), 3)
        new = {"k": k, "v": v, "bucket": bucket.permute(0, 3, 1, 2).to(torch.int16)}
        if real is not None:
            new["real"] = real
        if not q.shape[2]:
            return q, new
        alone = state is None and mask is None
        parts = [
            self._sorted(q, k, v, bucket[:, :, r]) if alone else self._over_pairs(q, k, v, bucket[:, :, r], real)
            for r in range(bucket.shape[2])
        ]
        outputs, sizes = zip(*parts, strict=True)
        share = torch.stack(sizes).softmax(0)
        return (share * torch.stack(outputs)).sum(0).to(v.dtype), new

    @torch.no_grad()
    def _hash(self, k: Tensor) -> Tensor:
        """(B, H, rounds, T): the bucket of each token in each round."""
        along = k.unsqueeze(2) @ self.directions.to(k.dtype)
        return torch.cat((along, -along), -1).argmax(-1)

    def _sorted(self, q: Tensor, k: Tensor, v: Tensor, bucket: Tensor) -> tuple[Tensor, Tensor]:
        """(outputs (B, H, T, d), logarithms of their sums (B, H, T, 1)) in one round, of a whole text."""
        tokens, size = q.shape[2], min(self.chunk, q.shape[2])
        chunks = -(-tokens // size)
        order = bucket.argsort(dim=2, stable=True)
        bucket = bucket.gather(2, order)
        part = _rank(bucket) // self.chunk

        def in_chunks(x: Tensor, value: int = 0) -> Tensor:  # (B, H, T, ...) -> (B, H, chunks, size, ...)
            filled = F.pad(x.movedim(2, -1), (0, chunks * size - tokens), value=value)
            return filled.movedim(-1, 2).unflatten(2, (-1, size))

        q, k, v = (in_chunks(x.gather(2, _wide(order, x))) for x in (q, k, v))
        bucket, part = in_chunks(bucket, -1), in_chunks(part)
        begin = torch.arange(chunks, device=q.device)[:, None, None] * size
        query = begin + torch.arange(size, device=q.device)[:, None]
        key = begin + torch.arange(-2 * size, size, device=q.device)  # those of the first chunks, below 0, are nobody
        seen = (key >= 0) & (key <= query) & (bucket[..., None] == _and_before(bucket)[..., None, :])
        seen = seen & (part[..., None] - _and_before(part)[..., None, :] <= 1)
        scores = precise(q @ _and_before(k).mT) * self.scale  # (B, H, chunks, size, 3 size)
        y, total = _read(scores, seen, query == key, _and_before(v))
        back = order.argsort(dim=2)
        y, total = y.flatten(2, 3)[:, :, :tokens], total.flatten(2, 3)[:, :, :tokens]
        return y.gather(2, _wide(back, y)), total.gather(2, back[..., None])

    def _over_pairs(
        self, q: Tensor, k: Tensor, v: Tensor, bucket: Tensor, real: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The same of the last T of S tokens, over all pairs."""
        new = k.shape[2] - q.shape[2]
        if real is not None:  # padding has a bucket of its own, and is not counted in those of others
            bucket = bucket.masked_fill(~real[:, None], self.buckets)
        order = bucket.argsort(dim=2, stable=True)
        part = _rank(bucket.gather(2, order)).gather(2, order.argsort(dim=2)) // self.chunk
        place = torch.arange(k.shape[2], device=q.device)
        query = place[new:, None]
        seen = (query >= place) & (bucket[:, :, new:, None] == bucket[:, :, None])
        seen = seen & (part[:, :, new:, None] - part[:, :, None] <= 1)
        return _read(precise(q @ k.mT) * self.scale, seen, query == place, v)


def _read(scores: Tensor, seen: Tensor, own: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = scores.masked_fill(own, OWN).masked_fill(~seen, torch.finfo(scores.dtype).min / 4)
    return precise(scores.softmax(-1).to(v.dtype) @ v), scores.logsumexp(-1, keepdim=True)


def _rank(bucket: Tensor) -> Tensor:
    """How many of equal bucket stand before each, of sorted buckets (B, H, S)."""
    place = torch.arange(bucket.shape[-1], device=bucket.device)
    begins = F.pad(bucket[..., 1:] != bucket[..., :-1], (1, 0), value=True)
    return place - torch.where(begins, place, 0).cummax(-1).values


def _and_before(x: Tensor) -> Tensor:
    """(B, H, chunks, size, ...) -> (B, H, chunks, 3 size, ...): each chunk behind the two before it, cyclically."""
    return torch.cat((x.roll(2, 2), x.roll(1, 2), x), 3)


def _wide(index: Tensor, x: Tensor) -> Tensor:
    """(B, H, N) places as an index into the tokens of x (B, H, T, d)."""
    return index[..., None].expand(*index.shape, x.shape[-1])


def _all(x: Tensor) -> Tensor:
    """(B, S): as many True as x (B, H, S, d) has tokens."""
    return x.new_ones(x.shape[0], x.shape[2], dtype=torch.bool)
