"""Top-k MLP: after the activation only the k hidden values of largest magnitude are kept for each token.

    h = act(W_up x + b_up),   y = W_down (h on its k largest |h|, 0 elsewhere) + b_down

Shapes: x (..., D) -> h (..., d_hidden) -> y (..., D). With k = d_hidden it is the dense MLP; with ReLU it changes
nothing as long as at most k entries are positive, and trained ReLU models are that sparse.

Two ways to compute the same: up to `gather_tokens` tokens, only the chosen columns of W_down are read (it is stored
transposed, one row per channel); above that, a dense product on the masked hidden layer is used, because copying
separate rows for every token costs more than the zeros. In inference a kernel reads the rows where they lie
(`kernels.chosen`); otherwise they are copied together.

Paper: Li et al. 2022, "The Lazy Neuron Phenomenon: On Emergence of Activation Sparsity in Transformers",
arXiv 2210.06313 (the Top-k Transformer). Confirmed in its abstract: top-k thresholding of the hidden layer after
the activation.
Differs from the paper: any activation, not only ReLU, whose values and magnitudes are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import activation
from layersmith.kernels import chosen as kernel


class TopKMLP(FeedForward):
    """Dense first map, k hidden values per token into the second.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    k                   hidden values kept per token, at most d_hidden
    act                 activation, as for `mlp`
    bias                add biases to both linear maps
    gather_tokens       up to this many tokens (batch * length) read only the chosen rows
    """

    name = "topk_mlp"

    def __init__(
        self, d_model: int, d_hidden: int, k: int, act: str = "relu", bias: bool = True, gather_tokens: int = 1
    ):
        super().__init__()
        require_positive(TopKMLP, d_model=d_model, d_hidden=d_hidden, k=k)
        if k > d_hidden:
            raise ValueError(f"TopKMLP: k={k} hidden values per token, but there are only d_hidden={d_hidden}.")
        if gather_tokens < 0:
            raise ValueError(f"TopKMLP: gather_tokens must be at least 0, not {gather_tokens}.")
        self.k, self.gather_tokens = k, gather_tokens
        self.act = activation(act)
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.down = nn.Parameter(torch.empty(d_hidden, d_model))
        nn.init.uniform_(self.down, -(d_hidden**-0.5), d_hidden**-0.5)  # as nn.Linear(d_hidden, d_model)
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    @classmethod
    def from_mlp(cls, mlp: MLP, k: int, gather_tokens: int = 1) -> TopKMLP:
        """A trained MLP restricted to its k largest activations per token."""
        config = mlp.spec()
        part = cls(config["d_model"], config["d_hidden"], k, config["act"], config["bias"], gather_tokens)
        part.to(mlp.up.weight)
        with torch.no_grad():
            part.up.load_state_dict(mlp.up.state_dict())
            part.down.copy_(mlp.down.weight.T)
            if part.bias is not None:
                part.bias.copy_(mlp.down.bias)
        return part

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        hidden = self.act(self.up(tokens))
        chosen = hidden.detach().abs().topk(self.k, sorted=False).indices
        kept = hidden.gather(-1, chosen)
        if tokens.shape[0] <= self.gather_tokens and kernel.serves(tokens, kept, self.down):
            y = kernel.chosen_rows(tokens, kept, chosen, None, self.down)
        elif tokens.shape[0] <= self.gather_tokens:
            y = (kept[:, None] @ F.embedding(chosen, self.down))[:, 0]
        else:
            y = torch.zeros_like(hidden).scatter(-1, chosen, kept) @ self.down
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(x.shape)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        d_hidden, d_model = self.down.shape
        return Cost(
            params=params,
            active_params=params - d_model * (d_hidden - self.k),
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
