"""FIT attention: attention inside groups of tokens, and among a few latents of each group, which carry what is far.

    a   = x + local(x)                                inside each group of tokens, causal
    z_g = z + gather(norm(z); norm(a) of group g)     the latents of a group read its tokens; z is learned
    u_g = z_g + across(norm(z_g); norm(z_1 .. z_g))   and the latents of all groups so far
    y_t = local(x)_t + spread(norm(a_t); norm(u_{g-1}))      a token in group g reads the latents of the group before

Each of the four is softmax attention with maps of its own; the output map of `spread` starts at 0, so the whole starts
as attention inside groups. A text of T tokens costs T group + (T latents / group)^2.

Shapes: x (B, T, D) -> groups (B, G, group, D), latents (B, G, latents, D) -> y (B, T, D).
State: x of the group begun (B, S, D), at most group - 1 tokens; k, v (B, H, U latents, head_dim) of the latents of full
groups; told (B, latents, D), u of the last full group; seen (B,) how many full groups there were; real (B, S) and full
(B, U latents) bool once a mask has been given.

Paper: Chen & Li 2023, "FIT: Far-reaching Interleaved Transformers" (from memory, the shift by one group where causal
too; not confirmed in released code).
Differs from the paper: these are the attentions of one of its blocks; feed-forwards are the model's own, and latents
start anew in each layer. Groups count real tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.heads import head_sizes, merge_heads, split_heads
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.softmax import SoftmaxAttention


class Reading(nn.Module):
    """Attention of some vectors (B, N, D) to others, whose keys and values are made apart."""

    def __init__(self, d_model: int, n_heads: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.q, self.k, self.v = (nn.Linear(d_model, n_heads * head_dim, bias=False) for _ in range(3))
        self.o = nn.Linear(n_heads * head_dim, d_model, bias=False)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return split_heads(self.k(x), self.head_dim), split_heads(self.v(x), self.head_dim)

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], allowed: Tensor | None = None) -> Tensor:
        q = split_heads(self.q(x), self.head_dim)
        return self.o(merge_heads(F.scaled_dot_product_attention(q, *keys, attn_mask=allowed)))


class FITAttention(Mixer):
    """Causal attention in groups, with latents between them.

    d_model, n_heads, head_dim    of each of the four attentions; head_dim None = d_model / n_heads
    group         tokens of a group
    latents       latents of a group
    rope_theta    base of the rotation inside groups; None = no rotation
    """

    name = "fit_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        group: int = 64,
        latents: int = 4,
        head_dim: int | None = None,
        rope_theta: float | None = None,
    ):
        super().__init__()
        _, head_dim = head_sizes(FITAttention, d_model, n_heads, None, head_dim)
        require_positive(FITAttention, group=group, latents=latents)
        self.group, self.latents = group, latents
        self.local = SoftmaxAttention(d_model, n_heads, head_dim=head_dim, rope_theta=rope_theta)
        self.gather, self.across, self.spread = (Reading(d_model, n_heads, head_dim) for _ in range(3))
        nn.init.zeros_(self.spread.o.weight)
        self.norm_tokens, self.norm_latents = nn.RMSNorm(d_model, eps=1e-6), nn.RMSNorm(d_model, eps=1e-6)
        self.z = nn.Parameter(torch.randn(latents, d_model) * 0.02)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        new = x.shape[1]
        if new == 0:
            return x, state
        if state is not None:  # the tokens of the group begun are worked off again, with those that follow
            if mask is not None or "real" in state:
                begun = state["real"] if "real" in state else _all(state["x"])
                mask = torch.cat((begun, _all(x) if mask is None else mask), 1)
            x = torch.cat((state["x"].to(x.dtype), x), 1)
        slots = None if mask is None else packed_slots(mask)
        count = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(1)
        x = x if slots is None else pack(x, slots)
        y, kept = self._groups(x, state, count, mask is not None)
        y = y if slots is None else unpack(y, slots)
        return y[:, y.shape[1] - new :], kept | self._begun(x, count, mask is not None)

    def _groups(self, x: Tensor, state: State | None, count: Tensor, masked: bool) -> tuple[Tensor, State]:
        """(y (B, T, D), what the state holds of full groups); of each row, the first `count` tokens are real."""
        batch, tokens, width = x.shape
        groups = -(-tokens // self.group)
        inside = F.pad(x, (0, 0, 0, groups * self.group - tokens)).reshape(batch * groups, self.group, width)
        local = self.local(inside)[0]
        a = self.norm_tokens(inside + local)
        z = self.z.to(x.dtype).repeat(batch * groups, 1, 1)
        z = (z + self.gather(self.norm_latents(z), self.gather.keys(a))).unflatten(0, (batch, groups))
        full = (torch.arange(groups, device=x.device) + 1) * self.group <= count[:, None]  # (B, G)
        u, kept = self._among_latents(z, full, state, None if masked else tokens // self.group)
        before = u.new_zeros(batch, self.latents, width) if state is None else state["told"]
        seen = count.new_zeros(batch) if state is None else state["seen"]
        told = torch.cat((before[:, None], u), 1)  # of the group before each, and of the last
        number = full.sum(1)
        spread = self.spread(a, self.spread.keys(self.norm_latents(told[:, :-1]).flatten(0, 1)))
        heard = (seen[:, None] + torch.arange(groups, device=x.device)) > 0
        y = (local + spread * heard.reshape(-1, 1, 1)).unflatten(0, (batch, groups)).flatten(1, 2)[:, :tokens]
        last = told.gather(1, number[:, None, None, None].expand(-1, 1, self.latents, width)).squeeze(1)
        return y, kept | {"told": last, "seen": seen + number}

    def _among_latents(
        self, z: Tensor, full: Tensor, state: State | None, complete: int | None
    ) -> tuple[Tensor, State]:
        """(u (B, G, latents, D), keys and values of the latents of full groups) for latents z (B, G, latents, D).

        complete  how many groups are full in every row; None where rows differ
        """
        flat = self.norm_latents(z).flatten(1, 2)
        k, v = self.across.keys(flat)
        group = torch.arange(z.shape[1], device=z.device).repeat_interleave(self.latents)
        allowed = (group <= group[:, None]) & full[:, group][:, None]
        allowed = allowed | (group == group[:, None])  # those of a group cut off are read by nobody
        known = full[:, group]
        if state is not None:
            earlier = state["full"] if "full" in state else _all(state["k"].transpose(1, 2))
            k, v, known = torch.cat((state["k"], k), 2), torch.cat((state["v"], v), 2), torch.cat((earlier, known), 1)
            allowed = torch.cat((earlier[:, None].expand(-1, len(group), -1), allowed), 2)
        u = z + self.across(flat, (k, v), allowed[:, None]).unflatten(1, z.shape[1:3])
        if complete is not None:
            slots = k.shape[2] - (z.shape[1] - complete) * self.latents
            return u, {"k": k[:, :, :slots], "v": v[:, :, :slots]}
        if not torch.compiler.is_compiling():  # rows end where they end; what no row needs goes
            order = known.long().argsort(dim=1, stable=True)[:, known.shape[1] - int(known.sum(1).max()) :]
            index = order[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
            k, v, known = k.gather(2, index), v.gather(2, index), known.gather(1, order)
        return u, {"k": k, "v": v, "full": known}

    def _begun(self, x: Tensor, count: Tensor, masked: bool) -> State:
        """The tokens of the group that is not full yet."""
        slots = x.shape[1]
        if not masked:
            return {"x": x[:, slots // self.group * self.group :]}
        place = torch.arange(min(self.group - 1, slots), device=x.device)
        index = (count // self.group * self.group)[:, None] + place
        kept = x.gather(1, index.clamp_max(slots - 1)[..., None].expand(-1, -1, x.shape[2]))
        return {"x": kept, "real": index < count[:, None]}


def _all(x: Tensor) -> Tensor:
    """(B, N): as many True as x (B, N, ...) has rows."""
    return x.new_ones(x.shape[0], x.shape[1], dtype=torch.bool)
