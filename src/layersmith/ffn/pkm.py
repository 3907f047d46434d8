"""Product-key memory: a large table of values, of which each head reads the k whose product keys answer its query best.

    y = sum over heads h and over the k best slots i of head h of  w_i V_i,    w = softmax of the k scores q_h . key_i

Shapes: x (..., D) -> queries (..., H, d_key) -> k slots per head -> y (..., D); V (n_keys^2, D), shared by the heads.
Keys are pairs of half keys, so the search over n_keys^2 slots scores 2 n_keys half keys per head (`product_keys`).
Parameters grow with n_keys^2, the work for a token with n_keys.

weights="relu" puts w = relu(scores) in place of softmax: the slots found then do not compete with each other.

Paper: Lample et al. 2019, "Large Memory Layers with Product Keys", arXiv 1907.05242; the weights "relu" are from
P291, Csordas et al. 2023, arXiv 2310.10837. Confirmed in the authors' code: search, softmax over each head's k scores,
sum over heads, starting values of deviation D^-1/2 and uniform half keys (facebookresearch/XLM, PKM-layer.ipynb);
relu (RobertCsordas/moe, layers/lowrank_approximate_2layer.py).
Differs from the paper: queries are normalised token by token (layer norm of each head's query), where the paper uses
batch norm, whose statistics cross tokens. The higher learning rate they give the values is left to the optimizer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, stored_bytes
from layersmith.ffn.shared.product_keys import WEIGHTS, ProductKeys, parameters_read, require_memory
from layersmith.kernels.gather import rows_sum


class PKM(FeedForward):
    """Product-key memory.

    d_model     width of the residual stream
    n_keys      half keys on each side: the memory has n_keys^2 slots
    heads       searches made for each token, each with its own query and keys
    k           slots that each head reads
    d_key       width of a query, even
    weights     "softmax", "relu" or "sigmoid" of the scores of the k slots of a head
    query_norm  layer-normalise each head's query
    """

    name = "pkm"

    def __init__(
        self,
        d_model: int,
        n_keys: int,
        heads: int = 4,
        k: int = 32,
        d_key: int = 128,
        weights: str = "softmax",
        query_norm: bool = True,
    ):
        super().__init__()
        require_memory(PKM, d_model, n_keys, heads=heads, k=k, d_key=d_key, weights=weights)
        self.weigh = WEIGHTS[weights]
        self.search = ProductKeys(d_model, n_keys, heads, k, d_key, query_norm)
        self.values = nn.Parameter(torch.empty(n_keys**2, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.search.reset_parameters()
        nn.init.normal_(self.values, std=self.values.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        scores, slots = self.search(tokens)
        weight = self.weigh(scores).to(x.dtype)
        return rows_sum(weight.flatten(1), self.values, slots.flatten(1)).reshape(x.shape)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        heads = self.search.keys.shape[0]
        return Cost(
            params=sum(p.numel() for p in self.parameters()),
            active_params=parameters_read(self.search, [self.values], heads * self.search.k),
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
