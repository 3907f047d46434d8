"""The GLU family with gate and up as one product: the `glu` with fewer calls, and equal outputs.

    [g, u] = W_gu x + b_gu,    y = W_down( act(g) * u ) + b_down        W_gu = [W_gate; W_up] (2 d_hidden, D)

Shapes: x (..., D) -> (..., 2 d_hidden) -> hidden (..., d_hidden) -> y (..., D).

A matrix of two heights is read in one go, which matters where a token at a time is written: each product that is saved
is one less call, and one less start of the threads. With silu and compiled kernels what stands between the products is
one call too (`kernels/gated`). With `one_row` a single token's products are shared out among the
threads (`kernels/one_row`): faster where the BLAS would leave them to one thread, and slower where it would not.

Paper: Shazeer 2020, "GLU Variants Improve Transformer", arXiv 2002.05202.
Differs from the paper: gate and up are stored as one matrix, gate first, as in Phi-3; the function is the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import activation
from layersmith.kernels import gated
from layersmith.kernels.one_row import linear_of


class FusedGLU(FeedForward):
    """Gated linear unit feed-forward with one matrix for gate and up.

    d_model, d_hidden   widths of the residual stream and of the gated hidden layer
    act                 gate activation: "sigmoid" (GLU), "relu" (ReGLU), "gelu" (GEGLU), "silu" (SwiGLU), ...
    bias                add biases to the maps
    one_row             share the products of a single token out among the threads

    Worked example. The weights of a `glu`, gate over up, give its outputs:

    >>> import torch
    >>> from layersmith.ffn.glu import GLU
    >>> glu, part = GLU(4, 3), FusedGLU(4, 3)
    >>> weights = {"gate_up.weight": torch.cat((glu.gate.weight, glu.up.weight)), "down.weight": glu.down.weight}
    >>> _ = part.load_state_dict(weights)
    >>> x = torch.randn(2, 4)
    >>> torch.allclose(part(x), glu(x), atol=1e-6)
    True
    """

    name = "fused_glu"

    def __init__(self, d_model: int, d_hidden: int, act: str = "silu", bias: bool = False, one_row: bool = False):
        super().__init__()
        require_positive(FusedGLU, d_model=d_model, d_hidden=d_hidden)
        self.act = activation(act)
        linear = linear_of(one_row)
        self.gate_up = linear(d_model, 2 * d_hidden, bias=bias)
        self.down = linear(d_hidden, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate_up = self.gate_up(x)
        if self.act is F.silu and gated.serves(gate_up):
            return self.down(gated.silu_gate(gate_up))
        gate, up = gate_up.chunk(2, dim=-1)
        return self.down(self.act(gate) * up)
