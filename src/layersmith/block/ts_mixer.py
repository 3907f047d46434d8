"""TSMixer: an MLP over tokens, then one over channels, each with a softmax gate on what it says.

    x = x + gate_T(mlp_T(norm(x)));   x = x + gate_C(mlp_C(ffn_norm(x)))          gate(z) = z * softmax(W z + b)

mlp_T, W_T and the softmax of gate_T run over tokens, the same for every channel; those of mlp_C over channels, the same
for every token. Both MLPs are GELU MLPs, `expansion` times as wide inside. A softmax gate has a budget of 1 that all
tokens, or channels, share. It has weights for `length` positions, is not causal and refuses longer sequences; the
softmax leaves padding out.

Shapes: x (B, T, D) -> y (B, T, D), T <= length; W_T (length, length), W_C (D, D). No state.

Paper: "TSMixer: Lightweight MLP-Mixer Model for Multivariate Time Series Forecasting", where a token is a patch of one
series. Confirmed in the PatchTSMixer of transformers, which the tests compare with.
Differs from the paper: series do not read each other here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Composed, Spec, ffn_of, mixer_of, norm_of, operators
from layersmith.contract import Cost, Operator, State, require_positive
from layersmith.mixer.shared.positions import PositionMap


class TSMixer(Composed):
    """Gated MLPs over tokens and over channels.

    d_model     width of the residual stream
    length      the most tokens it can take
    expansion   inner width of both MLPs, in lengths and in widths
    gated       have the gates
    norm        spec of the norms before both MLPs; None for none
    """

    name = "ts_mixer"

    def __init__(self, d_model: int, length: int, expansion: int = 2, gated: bool = True, norm: Spec | None = None):
        super().__init__()
        require_positive(TSMixer, d_model=d_model, length=length, expansion=expansion)
        self.longest = length
        over_tokens = {"name": "mlp_mixer", "token_hidden": expansion * length, "length": length, "causal": False}
        self.norm, self.mixer = norm_of(norm, d_model), mixer_of(over_tokens, d_model)
        self.ffn_norm = norm_of(norm, d_model, "ffn_norm")
        self.ffn = ffn_of({"name": "mlp", "d_hidden": expansion * d_model, "act": "gelu"}, d_model)
        self.token_gate = PositionMap(length, causal=False) if gated else None
        self.channel_gate = nn.Linear(d_model, d_model) if gated else None

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        z, _ = self.mixer(self.norm(x), None, mask)
        if self.token_gate is not None:
            scores = self.token_gate(z, None, mask)[0]
            if mask is not None:  # a row of padding alone has no weights, and nobody reads its output
                scores = scores.masked_fill(~(mask | ~mask.any(1, keepdim=True))[..., None], -torch.inf)
            z = z * scores.softmax(1)
        x = x + z
        z = self.ffn(self.ffn_norm(x))
        if self.channel_gate is not None:
            z = z * self.channel_gate(z).softmax(-1)
        return x + z, None

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((part, 1) for part in (*operators(self.norm, self.ffn_norm), self.mixer, self.ffn))

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        """The parts', and the maps of the gates."""
        cost, width = super().cost(batch, tokens), self.spec()["d_model"]
        gates = 2 * batch * tokens * width * (tokens + width) if self.channel_gate is not None else 0
        return replace(cost, flops=cost.flops + gates)
