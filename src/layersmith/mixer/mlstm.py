"""mLSTM: a matrix memory whose input gate is an exponential, read by a query and divided by what it has collected.

    i_t, f_t = cap(W_i x_t + b_i), cap(W_f x_t + b_f)                   a number for each head
    S_t = sigmoid(f_t) S_{t-1} + e^{i_t} k_t^T v_t                      n_t = sigmoid(f_t) n_{t-1} + e^{i_t} k_t
    h_t = q_t S_t / max(|q_t . n_t|, 1)                                 q over sqrt(head_dim)
    y_t = W_o (sigmoid(W_g x_t) * layernorm(h_t))                       per head; cap(z) = c tanh(z / c)

n is one more column of the memory, whose value is always 1. Exponents are kept in range by their running maximum
(`shared/exponential_gates.py`), after which this is a memory that forgets, computed in chunks (`shared/gated.py`).
Query heads of a group share key, value and gates, and so one memory.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim), i and f (B, H_kv, T) -> y (B, T, D).
State: memory (B, H_kv, head_dim, head_dim + 1), S and n times e^{-m}, and m (B, H_kv), in at least float32; position
(B,) with RoPE.

Paper: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, in the form of its 7B model. The
layer was confirmed in the xLSTM of transformers, which the tests compare with; the start of the gates' biases in the
authors' code.
Differs from the paper: queries and keys are as wide as values (half as wide in the 7B model); grouped heads and RoPE
are ours, both optional; m is never below 0, since what is less than e^0 cannot be told from the 1 it is divided by.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.exponential_gates import capped, running_max
from layersmith.mixer.shared.gated import gated_scan
from layersmith.mixer.shared.heads import HeadMixer, merge_heads
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.rope import tokens_seen

#: Beyond this e^-m is no float32 any more.
LARGEST_CAP = 80.0


class MLSTM(HeadMixer):
    """Linear attention with exponential input gates, forgetting and a normaliser.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    out_gate            multiply the normalised heads by sigmoid(W_g x)
    cap                 c, beyond which gates do not go; above 0, at most 80
    chunk               tokens computed together, rounded up to a power of two; changes speed, not values
    eps                 of the layer norm of a head
    """

    name = "mlstm"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        out_gate: bool = True,
        cap: float = 15.0,
        chunk: int = 64,
        eps: float = 1e-6,
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
        require_positive(MLSTM, chunk=chunk)
        if not 0 < cap <= LARGEST_CAP:
            raise ValueError(f"MLSTM: cap must be above 0 and at most {LARGEST_CAP:g}, not {cap!r}.")
        self.cap, self.chunk, self.eps = cap, chunk, eps
        self.write = nn.Linear(d_model, self.n_kv_heads)
        self.forget = nn.Linear(d_model, self.n_kv_heads)
        with torch.no_grad():  # at first the gates are the same for every token, and heads forget at different rates
            for gate in (self.write, self.forget):
                gate.weight.zero_()
            self.write.bias.normal_(std=0.1)
            self.forget.bias.copy_(torch.linspace(3.0, 6.0, self.n_kv_heads, device="cpu"))
        self.weight = nn.Parameter(torch.ones(n_heads * self.head_dim))
        self.gate = nn.Linear(d_model, n_heads * self.head_dim, bias=False) if out_gate else None

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        seen = None if state is None else state.get("position")
        q, k, v = self.project(x, mask, seen)
        with full_precision(x):
            h, new = self._read(x, (q, k, v), state, mask)
        if self.rope_theta is not None:
            new["position"] = tokens_seen(x, mask, seen)
        y = merge_heads(F.layer_norm(h, h.shape[-1:], eps=self.eps).to(x.dtype)) * self.weight
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.o(y), new

    def _read(
        self, x: Tensor, qkv: tuple[Tensor, Tensor, Tensor], state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State]:
        """h of every head, (B, H, T, head_dim), and the memory after the last token."""
        q, k, v = (precise(part) for part in qkv)
        write, forget = (capped(_precisely(gate, x), self.cap).mT for gate in (self.write, self.forget))
        forget, least = F.logsigmoid(forget), write.clamp_min(0.0)
        if mask is not None:  # a pad is not written, nothing is forgotten for it, and no exponent is its
            forget = forget * mask[:, None]
            write, least = (part.masked_fill(~mask[:, None], -torch.inf) for part in (write, least))
        memory = k.new_zeros(*k.shape[:2], self.head_dim, self.head_dim + 1) if state is None else state["memory"]
        first = write.new_zeros(write.shape[:2]) if state is None else state["m"]
        m = running_max(forget.detach(), least.detach(), first)
        before = torch.cat((first[..., None], m[..., :-1]), -1)
        k = k * (write - m).exp()[..., None]
        v = F.pad(v, (0, 1), value=1.0)
        q = (q * self.head_dim**-0.5).unflatten(1, (self.n_kv_heads, -1))  # a group shares one memory
        decay = (forget + before - m)[..., None]
        k, v, decay, memory = (part.unsqueeze(2) for part in (k, v, decay, memory))
        y, memory = gated_scan(q, k, v, decay, memory, self.chunk)
        floor = (-m).exp()[:, :, None, :, None]
        h = y[..., :-1] / torch.maximum(y[..., -1:].abs(), floor)
        return h.flatten(1, 2), {"memory": memory.squeeze(2), "m": m[..., -1].clone()}


def _precisely(gate: nn.Linear, x: Tensor) -> Tensor:
    """The map in at least float32, since an error of an exponent is a factor of what it is the exponent of."""
    return F.linear(precise(x), precise(gate.weight), precise(gate.bias))
