"""Top-k GLU (Mixture-of-Channels): each token uses only the k hidden channels whose gate is largest.

    g = W_gate x,   I = indices of the k largest g,   y = sum over i in I of  act(g_i) (W_up x)_i W_down[:, i]

Shapes: x (..., D) -> g (..., d_hidden) -> y (..., D). With k = d_hidden it is the dense GLU.

Two ways to compute the same: up to `gather_tokens` tokens, only the chosen rows of W_up and W_down are read, which is
what makes decoding cheaper (the gate is always dense, so at best 1/3 of the cost remains); above that, dense products
on a masked hidden layer are used, because copying separate rows for every token costs more than the zeros. W_down is
stored transposed, one row per channel, so that a chosen channel is one contiguous read. In inference a kernel reads
the rows where they lie (`kernels.chosen`); otherwise they are copied together.

Paper: Wu et al. 2025, "Mixture-of-Channels: Exploiting Sparse FFNs for Efficient LLMs Pre-Training and Inference",
arXiv 2511.09323. Confirmed: the choice by the GLU's own gate in its abstract; that it is by the pre-activation (not
its magnitude, nor the product) in public code of it (the `LlamaMoC` classes; whose, could not be verified). Top-k
thresholding of the hidden layer as such is Li et al. 2022, arXiv 2210.06313.
Differs from the paper: no 2:8 grouped choice; the backward pass is autograd's, which keeps the masked hidden layer
in full beside the k chosen entries of each factor, where their kernel keeps only the latter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.ffn.glu import GLU
from layersmith.ffn.shared.activations import activation
from layersmith.kernels import chosen as kernel


class TopKGLU(FeedForward):
    """Gated feed-forward that uses k hidden channels per token.

    d_model, d_hidden   widths of the residual stream and of the gated hidden layer
    k                   channels used per token, at most d_hidden
    act                 gate activation, as for `glu`
    gather_tokens       up to this many tokens (batch * length) read only the chosen rows
    """

    name = "topk_glu"

    def __init__(self, d_model: int, d_hidden: int, k: int, act: str = "silu", gather_tokens: int = 1):
        super().__init__()
        require_positive(TopKGLU, d_model=d_model, d_hidden=d_hidden, k=k)
        if k > d_hidden:
            raise ValueError(f"TopKGLU: k={k} channels per token, but there are only d_hidden={d_hidden}.")
        if gather_tokens < 0:
            raise ValueError(f"TopKGLU: gather_tokens must be at least 0, not {gather_tokens}.")
        self.k, self.gather_tokens = k, gather_tokens
        self.act = activation(act)
        self.gate = nn.Linear(d_model, d_hidden, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Parameter(torch.empty(d_hidden, d_model))
        nn.init.uniform_(self.down, -(d_hidden**-0.5), d_hidden**-0.5)  # as nn.Linear(d_hidden, d_model)

    @classmethod
    def from_glu(cls, glu: GLU, k: int, gather_tokens: int = 1) -> TopKGLU:
        """A trained GLU restricted to its k largest gates per token. GLUs with biases are refused."""
        config = glu.spec()
        if config["bias"]:
            raise ValueError("TopKGLU: the GLU has biases, which this part does not have.")
        part = cls(config["d_model"], config["d_hidden"], k, config["act"], gather_tokens).to(glu.up.weight)
        with torch.no_grad():
            part.gate.weight.copy_(glu.gate.weight)
            part.up.weight.copy_(glu.up.weight)
            part.down.copy_(glu.down.weight.T)
        return part

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        gate, chosen = self.gate(tokens).topk(self.k, sorted=False)
        y = self._gathered if tokens.shape[0] <= self.gather_tokens else self._masked
        return y(tokens, self.act(gate), chosen).reshape(x.shape)

    def _gathered(self, x: Tensor, gate: Tensor, chosen: Tensor) -> Tensor:
        if kernel.serves(x, gate, self.up.weight, self.down):
            return kernel.chosen_rows(x, gate, chosen, self.up.weight, self.down)
        up = (F.embedding(chosen, self.up.weight) @ x[..., None])[..., 0]
        return ((gate * up)[:, None] @ F.embedding(chosen, self.down))[:, 0]

    def _masked(self, x: Tensor, gate: Tensor, chosen: Tensor) -> Tensor:
        up = self.up(x)
        hidden = torch.zeros_like(up).scatter(-1, chosen, gate * up.gather(-1, chosen))
        return hidden @ self.down

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        d_hidden, d_model = self.down.shape
        return Cost(
            params=params,
            active_params=d_model * (d_hidden + 2 * self.k),
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
