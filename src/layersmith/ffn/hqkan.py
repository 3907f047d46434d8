"""HQKAN: a narrow Kolmogorov-Arnold layer of one-qubit circuits between a map down to few channels and a map back up.

    h = W_in x + b_in,   g_o = bias_o + sum_i [ v_oi act(h_i) + s_oi phi_oi(h_i) ],   y = W_out g + b_out

Every phi_oi is a circuit of its own (`daruan`), simulated exactly; s scales it. Parameters: 2 D d' for the two maps and
(3 reps + 4) d'^2 for the layer.

Shapes: x (..., D) -> h (..., d') -> phi (..., d', d') -> g (..., d') -> y (..., D); d' is `d_bottleneck`.
With s = 0, v = 1 on the diagonal and act the identity it is a linear map of rank d'.

Paper: Jiang et al. 2025, "Quantum Variational Activation Functions Empower Kolmogorov-Arnold Networks",
arXiv 2509.14026. Confirmed in the authors' code (Jim137/qkan): a linear map, a square QKAN layer and a linear map in
place of a transformer's feed-forward (d' = 10 for D = 768 in their example), SiLU base term, post-activation weights
s, layer extension.
Differs from the paper: s always learns and starts at d'^-1/2 (fixed at 1 by default in their code); base weights start
at random (all 0.5 in their code).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import ACTIVATIONS
from layersmith.ffn.shared.daruan import Daruan
from layersmith.ffn.shared.kan_layer import require_activation


class HQKAN(FeedForward):
    """Bottleneck feed-forward with a circuit on every edge.

    d_model, d_bottleneck   widths of the residual stream and of the layer of circuits
    reps                    times a circuit loads its input; at most 2^reps - 1 periods per unit of weight
    base                    activation of the base term
    """

    name = "hqkan"

    def __init__(self, d_model: int, d_bottleneck: int, reps: int = 3, base: str = "silu"):
        super().__init__()
        require_positive(HQKAN, d_model=d_model, d_bottleneck=d_bottleneck, reps=reps)
        require_activation(HQKAN, base=base)
        self.act = ACTIVATIONS[base]
        self.down = nn.Linear(d_model, d_bottleneck)
        self.circuits = Daruan(d_bottleneck, d_bottleneck, reps)
        self.scale = nn.Parameter(torch.full((d_bottleneck, d_bottleneck), d_bottleneck**-0.5))  # (i, o)
        self.base = nn.Linear(d_bottleneck, d_bottleneck)
        self.up = nn.Linear(d_bottleneck, d_model)

    def forward(self, x: Tensor) -> Tensor:
        h = self.down(x)
        phi = self.circuits(h)  # (..., i, o), in at least 32 bits
        g = (phi * self.scale).sum(-2)
        return self.up(self.base(self.act(h)) + g.to(h.dtype))

    @torch.no_grad()
    def extended(self, reps: int) -> HQKAN:
        """Layer extension: an equal part whose circuits have more repetitions to learn with."""
        config = {k: v for k, v in self.spec().items() if k != "name"}
        longer = HQKAN(**{**config, "reps": reps}).to(self.scale)
        longer.load_state_dict(
            {k: v for k, v in self.state_dict().items() if not k.startswith("circuits.")}, strict=False
        )
        longer.circuits = self.circuits.extended(reps)
        return longer
