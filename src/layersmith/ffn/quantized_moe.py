"""A top-k mixture of experts whose experts are stored in 2 to 8 bits a weight; the router stays as it is.

    W_e[o, i] ~ code[e, o, i] scale[e, o],   code in -m .. m,   m = 2^(bits - 1) - 1
    scale[e, o] = max_i |W_e[o, i]| / m, in float16
    p = softmax(W_r x),   w = p on the k largest (divided by their sum),   y = sum over the chosen e of w_e E_e(x)
    E_e(x) = W_down,e (act(W_gate,e x) * (W_up,e x)),   without `gated`: W_down,e act(W_up,e x)

Experts are nearly all of a mixture's weights and each sees few tokens; the paper finds them to bear two bits, that is
{-1, 0, 1} times a scale, where a dense feed-forward does not. One expert is a dense feed-forward, to compare with.

Shapes: x (..., D) -> p (N, E) -> y (..., D); up and gate (E, d_expert, D), down (E, D, d_expert), packed. All experts
are unpacked at every call: smaller, and no faster. Only the router can be trained.

Paper: "Mixture of Quantized Experts (MoQE): Complementary Effect of Low-bit Quantization and Robustness" (symmetric
linear quantization of the weights of experts alone, a scale for each output channel). The number of levels is from
memory.
Differs from the paper: at 2 bits nothing is trained through the rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.experts import grouped_linear, mix_experts
from layersmith.ffn.shared.routing import probabilities
from layersmith.linear.quantized import WORDS, QuantizedLinear


class QuantizedMoE(FeedForward):
    """k of E packed experts for each token. A new one holds random experts, rounded.

    d_model, d_expert   widths of the residual stream and of one expert's hidden layer
    n_experts, k        number of experts E, and how many each token uses
    bits                of a weight of an expert: 8, 4, 3 or 2
    act, gated          activation of the experts, as for `mlp`; with `gated`, experts are GLUs
    renormalize         divide the k weights by their sum
    """

    name = "quantized_moe"

    def __init__(
        self,
        d_model: int,
        d_expert: int,
        n_experts: int,
        k: int,
        bits: int = 4,
        act: str = "silu",
        gated: bool = True,
        renormalize: bool = True,
    ):
        super().__init__()
        require_positive(QuantizedMoE, d_model=d_model, d_expert=d_expert, n_experts=n_experts, k=k)
        if k > n_experts:
            raise ValueError(f"QuantizedMoE: k={k} experts per token, but there are only n_experts={n_experts}.")
        if bits not in WORDS:
            raise ValueError(f"QuantizedMoE: bits must be one of {sorted(WORDS)}, not {bits!r}.")
        self.n_experts, self.k, self.bits, self.renormalize = n_experts, k, bits, renormalize
        self.act, self.gated = activation(act), gated
        self.router = nn.Parameter(torch.empty(n_experts, d_model).uniform_(-(d_model**-0.5), d_model**-0.5))
        shapes = {"up": (d_expert, d_model), "gate": (d_expert, d_model), "down": (d_model, d_expert)}
        self.names = ("up", "gate", "down") if gated else ("up", "down")
        for name in self.names:
            bound = shapes[name][1] ** -0.5
            setattr(self, name, Packed.symmetric(torch.empty(n_experts, *shapes[name]).uniform_(-bound, bound), bits))

    @classmethod
    def from_moe(cls, moe: Any, bits: int) -> QuantizedMoE:
        """The experts of a `TopKMoE`, rounded. ValueError where a weight is not finite."""
        names = ("d_model", "d_expert", "n_experts", "k", "act", "gated", "renormalize")
        part = cls(**{name: moe.spec()[name] for name in names}, bits=bits).to(moe.router.device)
        part.router = nn.Parameter(moe.router.detach().clone())
        for name in part.names:
            setattr(part, name, Packed.symmetric(getattr(moe.experts, name).detach(), bits))
        return part

    def weight(self, name: str) -> Tensor:
        """float32 matrices of all experts, (E, d_out, d_in): "up", "gate" or "down"."""
        matrices: Tensor = getattr(self, name).dense_weight()
        return matrices.unflatten(0, (self.n_experts, -1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        p = probabilities(tokens, self.router)
        chosen = p.detach().topk(self.k, sorted=False).indices
        share = p.gather(-1, chosen)
        if self.renormalize:
            share = share / share.sum(-1, keepdim=True)
        return mix_experts(tokens, chosen, share, self.n_experts, self._experts).reshape(x.shape)

    def _experts(self, rows: Tensor, counts: Tensor) -> Tensor:
        up = grouped_linear(rows, self.weight("up"), counts)
        hidden = self.act(grouped_linear(rows, self.weight("gate"), counts)) * up if self.gated else self.act(up)
        return grouped_linear(hidden, self.weight("down"), counts)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        experts = sum(getattr(self, name).d_out * getattr(self, name).d_in for name in self.names)
        return Cost(
            params=self.router.numel() + experts,
            active_params=self.router.numel() + experts * self.k // self.n_experts,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


class Packed(QuantizedLinear):
    """Matrices of one shape, one above the other, on grids symmetric about 0. Their mixture reads them as a whole."""

    @classmethod
    def symmetric(cls, weight: Tensor, bits: int) -> Packed:
        """`weight` (E, d_out, d_in), each row rounded to its own grid. ValueError where it is not finite."""
        top = 2 ** (bits - 1) - 1
        rows = weight.float().flatten(0, 1)
        scale = (rows.abs().amax(-1, keepdim=True) / top).half()
        if not scale.is_meta and not bool(torch.isfinite(scale).all()):
            raise ValueError("QuantizedMoE: a weight is NaN, infinite or too large for a grid with an fp16 scale.")
        scale = torch.where(scale == 0, 1, scale)  # a row of zeros, or a range below what fp16 holds
        codes = (rows / scale.float()).round().clamp(-top, top) + top
        part = cls(rows.shape[1], len(rows), bits, group_size=rows.shape[1])
        part._store(codes.to(torch.uint8), scale, torch.full_like(scale, top), None)
        return part
