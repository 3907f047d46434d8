"""TOVA: softmax attention whose cache drops the tokens that the newest one attends to least, and so never grows.

    y_t = W_o concat_h sum_s softmax_s(scale * q_t . k_s) v_s      over the s <= t that are still kept
    after every `chunk`-th token t, of the tokens kept so far those with the `keep` largest
        mean_h softmax_s(scale * q_t . k_s)      stay

All heads of a layer keep the same tokens. No token is kept for its place: neither the first ones nor the last. A token
that is dropped is never seen again. With keep >= T nothing is dropped, and this is `softmax_attention`.

A whole text is worked off chunk by chunk, since what a chunk may read is only known after the one before it: T / chunk
steps of matrix products, each over at most keep + chunk - 1 tokens.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: k, v (B, H_kv, S, head_dim) after rope, the kept tokens in their order, S at most keep + chunk - 1; position
(B,) with rope; real (B, S) bool once a mask has been given. keep is a multiple of chunk, so that S tells how far a
chunk has come.

Paper: Oren et al. 2024, "Transformers are Multi-State RNNs", arXiv 2401.06104. Confirmed in the released code: the mean
over heads of the last query's weights chooses, the best `keep` stay, its own token may go. There it chooses after each
call of the model, that is after the whole prompt and then after each token.
Differs from the paper: it chooses after each chunk, in prompts too, so that outputs do not depend on how a text is cut
into calls; chunk = 1 is the rule as the paper states it. Keys keep the rotation of their place in the text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.key_values import shortened


class TOVA(HeadMixer):
    """Softmax attention with a cache of limited size.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    keep     tokens that stay; a multiple of chunk
    chunk    how many tokens come between two choices
    scale    factor on the scores; None = head_dim^-0.5
    """

    name = "tova"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        keep: int = 256,
        chunk: int = 16,
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
        require_positive(TOVA, keep=keep, chunk=chunk)
        if keep % chunk:
            raise ValueError(f"TOVA: keep={keep} must be a multiple of chunk={chunk}.")
        self.keep, self.chunk = keep, chunk
        self.scale = self.head_dim**-0.5 if scale is None else scale

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        if state is None:
            state = {"k": k[:, :, :0], "v": v[:, :, :0]}
        if mask is None and "real" not in state:
            return self._in_chunks(q, k, v, state)
        return self._with_padding(q, k, v, state, mask)

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        # None once tokens have been dropped, or padding moved out of the way.
        return None if "real" in state else shortened(state, seen, tokens)

    def _in_chunks(self, q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        kept_k, kept_v, outputs, start = state["k"], state["v"], [q[:, :, :0]], 0
        while start < q.shape[2]:
            stop = min(start + self.chunk - kept_k.shape[2] % self.chunk, q.shape[2])
            new = slice(start, stop)
            kept_k, kept_v = torch.cat((kept_k, k[:, :, new]), 2), torch.cat((kept_v, v[:, :, new]), 2)
            outputs.append(self._attend(q[:, :, new], kept_k, kept_v, None))
            if kept_k.shape[2] % self.chunk == 0 and kept_k.shape[2] > self.keep:
                best = self._weights(q[:, :, stop - 1 : stop], kept_k, None).topk(self.keep, dim=1).indices
                kept_k, kept_v = _picked(kept_k, best.sort().values), _picked(kept_v, best.sort().values)
            start = stop
        return torch.cat(outputs, 2), {"k": kept_k, "v": kept_v}

    def _with_padding(self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        """The same where rows have real tokens in other places: each row's chunks are laid out below each other."""
        kept_k, kept_v = state["k"], state["v"]
        real = state["real"] if "real" in state else kept_k.new_ones(len(q), kept_k.shape[2], dtype=torch.bool)
        mask = torch.ones(len(q), q.shape[2], device=q.device, dtype=torch.bool) if mask is None else mask
        most = min(self.keep + self.chunk - 1, kept_k.shape[2] + q.shape[2])
        begun = real.sum(1, keepdim=True) % self.chunk
        slots = -(-(q.shape[2] + self.chunk - 1) // self.chunk) * self.chunk
        # Real tokens go behind what their row's chunk holds already; padding into a slot that is thrown away.
        slot = torch.where(mask, begun + mask.long().cumsum(1) - 1, slots)
        filled = mask.new_zeros(len(q), slots + 1).scatter(1, slot, mask)[:, :slots]
        q_laid, k_laid, v_laid = (_laid_out(part, slot, slots) for part in (q, k, v))
        outputs = [q[:, :, :0]]
        for start in range(0, slots, self.chunk):
            new = slice(start, start + self.chunk)
            kept_k, kept_v = torch.cat((kept_k, k_laid[:, :, new]), 2), torch.cat((kept_v, v_laid[:, :, new]), 2)
            real = torch.cat((real, filled[:, new]), 1)
            outputs.append(self._attend(q_laid[:, :, new], kept_k, kept_v, real))
            full = filled[:, start + self.chunk - 1, None]
            weights = self._weights(q_laid[:, :, start + self.chunk - 1, None], kept_k, real)
            rank = weights.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            real = real & ((rank < self.keep) | ~full)
            # In order, what is not kept in front, where it is cut off.
            order = real.long().argsort(dim=1, stable=True)[:, max(0, real.shape[1] - most) :]
            kept_k, kept_v, real = _picked(kept_k, order), _picked(kept_v, order), real.gather(1, order)
        back = slot.clamp_max(slots - 1)[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
        own = torch.where(mask[:, None, :, None], torch.cat(outputs, 2).gather(2, back), q.new_zeros(()))
        return own, {"k": kept_k, "v": kept_v, "real": real}

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        """The last queries see everything before them, and padding also itself, lest it be NaN."""
        tokens, slots = q.shape[2], k.shape[2]
        allowed = None
        if tokens > 1 or real is not None:
            place = torch.arange(slots, device=q.device)
            query = place[slots - tokens :, None]
            allowed = query >= place
            if real is not None:
                allowed = ((allowed & real[:, None]) | (query == place))[:, None]
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=self.scale, enable_gqa=grouped)

    @torch.no_grad()
    def _weights(self, q: Tensor, k: Tensor, real: Tensor | None) -> Tensor:
        """(B, S): the weights of one query, (B, H, 1, d), averaged over heads; below 0 at padding."""
        scores = q.unflatten(1, (self.n_kv_heads, -1)) @ k.unsqueeze(2).mT  # (B, H_kv, G, 1, S)
        scores = scores.to(torch.promote_types(q.dtype, torch.float32)) * self.scale
        if real is not None:
            scores = scores.masked_fill(~real[:, None, None, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).flatten(1, 3).mean(1)
        return weights if real is None else weights.masked_fill(~real, -1)


def _picked(x: Tensor, order: Tensor) -> Tensor:
    """Of x (B, H, S, d) the tokens of each row that order (B, N) names."""
    return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _laid_out(x: Tensor, slot: Tensor, slots: int) -> Tensor:
    """x (B, H, T, d) with each token in its slot, (B, H, slots, d); slot `slots` is thrown away."""
    index = slot[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.new_zeros(*x.shape[:2], slots + 1, x.shape[3]).scatter(2, index, x)[:, :, :slots]
