"""Head with an MLP memory: the map to logits, mixed with what a stack of feed-forwards remembers of a text.

    h_0 = x,   h_l = h_{l-1} + W_2l gelu(W_1l rmsnorm(h_{l-1}))
    y   = log( (1 - share) softmax(W x) + share softmax(W h_L) )

The memory is trained to foretell the tokens that a nearest-neighbour search over a text would (its distribution over
the tokens that followed the most similar states), while W stays as it was; then it answers in its place, without the
text and without a search. It starts as W x itself. With share 0 the answer is log softmax(W x): the same predictions
as W x.

Shapes: x (..., d_in) -> log probabilities y (..., d_out), in at least float32 inside; W (d_out, d_in).

Paper: "MLP Memory: Language Modeling with Retriever-pretrained External Memory". That distributions are interpolated
and a retriever's is imitated is the abstract's. Not confirmed, from memory: its loss, alpha KL(retriever | memory) +
(1 - alpha) cross entropy, which is the trainer's work (`benchmarks/claims/mlp_memory.py`).
Differs from the paper: it reads what enters the head, not a state at about 70 % of the depth; its logits are made by
the model's own W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive


class MLPMemory(Linear):
    """Log probabilities of a map to logits and a memory beside it.

    d_in, d_out   widths of the hidden state and of the vocabulary
    d_hidden      inner width of a layer of the memory
    layers        how many there are
    share         of the memory in the mixture, 0 <= share <= 1
    """

    name = "mlp_memory"

    def __init__(self, d_in: int, d_out: int, d_hidden: int, layers: int = 2, share: float = 0.25):
        super().__init__()
        require_positive(MLPMemory, d_in=d_in, d_out=d_out, d_hidden=d_hidden, layers=layers)
        if not 0 <= share <= 1:
            raise ValueError(f"MLPMemory: share={share!r} must be between 0 and 1.")
        self.share = share
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(d_out, d_in), a=5**0.5))  # as nn.Linear
        self.norms = nn.ModuleList(nn.RMSNorm(d_in, eps=1e-6) for _ in range(layers))
        self.ups = nn.ModuleList(nn.Linear(d_in, d_hidden) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(d_hidden, d_in) for _ in range(layers))
        for parameter in self.downs.parameters():
            nn.init.zeros_(parameter)

    def remembered(self, x: Tensor) -> Tensor:
        """Logits of the memory alone, (..., d_out)."""
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + down(F.gelu(up(norm(x.to(self.weight.dtype)))))
        return F.linear(x, self.weight.to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        own = F.linear(x, self.weight).to(wide).log_softmax(-1)
        if self.share == 0:
            return own.to(x.dtype)
        memory = self.remembered(x).to(wide).log_softmax(-1)
        if self.share == 1:
            return memory.to(x.dtype)
        share = torch.tensor(self.share, dtype=wide, device=x.device)
        return torch.logaddexp(own + (-share).log1p(), memory + share.log()).to(x.dtype)
