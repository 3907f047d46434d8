"""PEER: a feed-forward put together for each token from a few of very many experts of one neuron each.

    y = sum over heads h and over the k best experts i of head h of  w_i act(u_i . x) v_i,    w = softmax(q_h . key_i)

Shapes: x (..., D) -> queries (..., H, d_key) -> k experts per head -> y (..., D); u, v (n_keys^2, D), shared by heads.
Keys are pairs of half keys, so the search over n_keys^2 experts scores 2 n_keys half keys per head (`product_keys`).
Parameters grow with n_keys^2, the work for a token with n_keys. With one head and k = n_keys^2 it is a dense MLP whose
hidden neurons are weighted by a softmax.

On the CPU the experts' rows are read by a compiled kernel that asks for the next rows while it uses this one
(`kernels/gather.py`); 2 * H * k * D numbers per token come from memory, and their transfer bounds the speed.

Paper: He 2024, "Mixture of A Million Experts", arXiv 2407.04153. Confirmed in a third-party port (lucidrains/
PEER-pytorch, after the paper's Algorithm 1) and in the PEER variant of facebookresearch/memory: search, softmax over
each head's k scores, one neuron per expert with GELU, experts shared by the heads, H = 8 and k = 16.
Differs from the paper: queries are normalised token by token (layer norm of each head's query), where the paper uses
batch norm, whose statistics cross tokens. Experts start with deviation D^-1/2, as in facebookresearch/memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, stored_bytes
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.product_keys import WEIGHTS, ProductKeys, parameters_read, require_memory
from layersmith.kernels.gather import rows_dot, rows_sum


class PEER(FeedForward):
    """Experts of one neuron, retrieved by product keys.

    d_model     width of the residual stream
    n_keys      half keys on each side: there are n_keys^2 experts
    heads       searches made for each token, each with its own query and keys
    k           experts that each head uses
    d_key       width of a query, even
    act         activation of the experts (see `ffn/activations.py`)
    weights     "softmax", "relu" or "sigmoid" of the scores of the k experts of a head
    query_norm  layer-normalise each head's query
    """

    name = "peer"

    def __init__(
        self,
        d_model: int,
        n_keys: int,
        heads: int = 8,
        k: int = 16,
        d_key: int = 128,
        act: str = "gelu",
        weights: str = "softmax",
        query_norm: bool = True,
    ):
        super().__init__()
        require_memory(PEER, d_model, n_keys, heads=heads, k=k, d_key=d_key, weights=weights)
        self.act, self.weigh = activation(act), WEIGHTS[weights]
        self.search = ProductKeys(d_model, n_keys, heads, k, d_key, query_norm)
        self.up = nn.Parameter(torch.empty(n_keys**2, d_model))
        self.down = nn.Parameter(torch.empty(n_keys**2, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.search.reset_parameters()
        for table in (self.up, self.down):
            nn.init.normal_(table, std=table.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        scores, chosen = self.search(tokens)
        chosen = chosen.flatten(1)
        hidden = self.act(rows_dot(tokens, self.up, chosen)) * self.weigh(scores).flatten(1).to(x.dtype)
        return rows_sum(hidden, self.down, chosen).reshape(x.shape)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        heads = self.search.keys.shape[0]
        return Cost(
            params=sum(p.numel() for p in self.parameters()),
            active_params=parameters_read(self.search, [self.up, self.down], heads * self.search.k),
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
