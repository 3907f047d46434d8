"""sLSTM: an LSTM whose input gate is an exponential, and whose cells are divided by all that has been written to them.

    i, f, z, o = W x_t + R h_{t-1} + b                                     R mixes the cells of a head, W all of x_t
    c_t = sigmoid(f) c_{t-1} + e^i tanh(z)          n_t = sigmoid(f) n_{t-1} + e^i
    h_t = sigmoid(o) c_t / n_t                      y_t = w * layernorm(h_t), per head

c / n is a mean of what was written, weighted by e^i and by what came after it: a late token may outweigh all before it,
which sigmoid gates cannot let it. Exponents are kept in range by m_t = max(log sigmoid(f) + m_{t-1}, i), which drops
out. The gates read h_{t-1}, so that steps are taken one after the other (`shared/stepwise.py`).

Shapes: x (B, T, D) -> i, f, z, o (B, T, 4 D) -> c, n, h (B, D) behind each token -> y (B, T, D); R (H, 4, D/H, D/H).
State: h, c, n, m (B, D) in at least float32; c and n times e^{-m}.

Paper: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517. Confirmed in the authors' released
code: the step and its stabiliser, recurrence within heads, the norm behind it, no output map.
Differs from the paper: W is dense; no short convolution before i and f; biases of f start evenly spaced from 3 to 6 in
each head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.stepwise import Step, SteppedMixer


class SLSTM(SteppedMixer):
    """An LSTM with exponential gates, recurrent within heads.

    d_model   width of the residual stream and of the state
    n_heads   groups of cells that see each other's outputs; divides d_model
    eps       of the layer norm of a head
    """

    name = "slstm"

    def __init__(self, d_model: int, n_heads: int = 4, eps: float = 1e-5):
        super().__init__()
        require_positive(SLSTM, d_model=d_model, n_heads=n_heads)
        if d_model % n_heads:
            raise ValueError(f"SLSTM: d_model={d_model} is not a multiple of n_heads={n_heads}.")
        size = d_model // n_heads
        self.n_heads, self.eps = n_heads, eps
        self.x = nn.Linear(d_model, 4 * d_model)  # i, f, z, o
        self.h = nn.Parameter(torch.empty(n_heads, size, 4 * size).uniform_(-(size**-0.5), size**-0.5))
        self.weight = nn.Parameter(torch.ones(d_model))
        with torch.no_grad():
            self.x.bias.zero_()
            self.x.bias[d_model : 2 * d_model] = torch.linspace(3.0, 6.0, size, device="cpu").repeat(n_heads)

    def read(self, x: Tensor) -> Tensor:
        return F.linear(x, self.x.weight.to(x.dtype), self.x.bias.to(x.dtype))

    def start(self, u: Tensor) -> State:
        nothing = u.new_zeros(u.shape[0], len(self.weight))
        return {"h": nothing, "c": nothing, "n": nothing, "m": nothing - torch.inf}

    def stepper(self, u: Tensor) -> Step:
        recur = self.h.to(u.dtype)

        def step(now: Tensor, state: State) -> State:
            heads = state["h"].unflatten(-1, (self.n_heads, -1))
            back = torch.einsum("bhi,hio->bho", heads, recur)  # (B, H, 4 D/H)
            back = back.unflatten(-1, (4, -1)).transpose(1, 2).flatten(1)
            i, f, z, o = (now + back).chunk(4, dim=-1)
            kept = F.logsigmoid(f) + state["m"]
            m = torch.maximum(kept, i).detach()
            keep, write = (kept - m).exp(), (i - m).exp()
            c, n = keep * state["c"] + write * z.tanh(), keep * state["n"] + write
            return {"h": o.sigmoid() * c / n, "c": c, "n": n, "m": m}

        return step

    def write(self, h: Tensor) -> Tensor:
        heads = h.unflatten(-1, (self.n_heads, -1))
        return F.layer_norm(heads, heads.shape[-1:], eps=self.eps).flatten(-2) * self.weight.to(h.dtype)
