"""Cascaded-chunk feed-forward: channels in chunks with small MLPs of their own, each passing its output to the next.

    x = (x_1, ..., x_n),   u_1 = x_1,   u_i = x_i + y_{i-1},   y_i = W_down,i act(W_up,i u_i),   y = (y_1, ..., y_n)

Shapes: x (..., D) -> n chunks (..., D / n) -> hidden (..., d_hidden / n) each -> y (..., D). With 1 / n of the dense
MLP's parameters; a chunk of the output depends on its own and earlier chunks of the input. n = 1 is the MLP.

Paper: Sivakumar & Qureshi 2025, "CascadedViT: Cascaded Chunk-FeedForward and Cascaded Group Attention Vision
Transformer", arXiv 2511.14111. Confirmed in public summaries of it: the recursion, concatenation, two chunks and an
expansion of 2.5 as the settled choice.
Differs from the paper: it stands alone, outside their sandwich block; batch norms are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.mlp import MLP


class CascadedFFN(FeedForward):
    """MLPs over chunks of the channels, in a cascade.

    d_model, d_hidden   widths of the residual stream and of all hidden layers together; multiples of `chunks`
    chunks              how many parts the channels are cut into
    act, bias           of each small MLP

    Worked example. Two chunks of one channel each; the first MLP is 2 relu(u), the second relu(u):

    >>> import torch
    >>> part = CascadedFFN(2, 2, chunks=2, bias=False)
    >>> weights = {"0.up": 1.0, "0.down": 2.0, "1.up": 1.0, "1.down": 1.0}
    >>> _ = part.load_state_dict({f"parts.{name}.weight": torch.tensor([[w]]) for name, w in weights.items()})
    >>> part(torch.tensor([1.0, 3.0])).tolist()  # y_1 = 2 relu(1), y_2 = relu(3 + y_1)
    [2.0, 5.0]

    The cascade runs one way: the second output feels the first input, the first output not the second input.

    >>> part(torch.tensor([[-1.0, 3.0], [1.0, -9.0]])).tolist()
    [[0.0, 3.0], [2.0, 0.0]]

    Half the parameters of the MLP of the same widths, and half its FLOPs; but the chunks wait for each other.

    >>> [(cost.params, cost.flops) for cost in (part.cost(), MLP(2, 2, bias=False).cost())]
    [(4, 8), (8, 16)]
    """

    name = "cascaded_ffn"

    def __init__(self, d_model: int, d_hidden: int, chunks: int = 2, act: str = "relu", bias: bool = True):
        super().__init__()
        require_positive(CascadedFFN, d_model=d_model, d_hidden=d_hidden, chunks=chunks)
        if d_model % chunks or d_hidden % chunks:
            raise ValueError(f"CascadedFFN: chunks={chunks} must divide d_model={d_model} and d_hidden={d_hidden}.")
        sizes = (d_model // chunks, d_hidden // chunks)
        self.parts = nn.ModuleList(MLP(*sizes, act=act, bias=bias) for _ in range(chunks))

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for part, chunk in zip(self.parts, x.chunk(len(self.parts), dim=-1), strict=True):
            outputs.append(part(chunk + outputs[-1] if outputs else chunk))
        return torch.cat(outputs, dim=-1)
