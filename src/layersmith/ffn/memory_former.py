"""MemoryFormer's feed-forward: two look-up layers with a layer norm between them, and no other activation.

    y = M2( LayerNorm( M1(x) ) ),    M the map of `memory_linear`: signs of slices choose rows of tables

Shapes: x (..., D) -> M1: K = D / bits tables of 2^bits rows -> hidden (..., K (bits + extra_bits)) -> M2: K tables of
2^(bits + extra_bits) rows -> y (..., D). What is not linear is the look-up itself. A token reads 2 K rows, so the work
is far below a dense feed-forward's, and the memory far above: about 2^bits / bits times.

Paper: Ding et al. 2024, "MemoryFormer", arXiv 2411.12992. Confirmed in the authors' code (C0-Design/MemoryFormer,
megatron/model/transformer.py): two memory layers, the layer norm between them, and a hidden layer made wider by two
bits for each table, not by more tables.
Differs from the paper: nothing known; the weight is the paper's "softmax" unless "scaled", the code's, is asked for.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.linear.memory_linear import MemoryLinear


class MemoryFormer(FeedForward):
    """Feed-forward of two look-up layers.

    d_model             width of the residual stream
    bits                numbers in a slice of the input; divides d_model
    extra_bits          by how much wider a slice of the hidden layer is
    weight, temperature  as for `memory_linear`

    Worked example. One slice of two numbers, so four rows in each table, and a temperature at which all signs are
    clear. (5, -5) has the signs + -, binary 10: row 2, which is (3, 1). Normalised it is (1, -1): row 2 again.

    >>> import torch
    >>> part = MemoryFormer(2, bits=2, extra_bits=0, temperature=0.05)
    >>> with torch.no_grad():
    ...     _ = part.up.tables.copy_(torch.tensor([[[0.0, 0.0], [0.0, 0.0], [3.0, 1.0], [1.0, 3.0]]]))
    ...     _ = part.down.tables.copy_(torch.tensor([[[0.0, 0.0], [10.0, 20.0], [30.0, 40.0], [0.0, 0.0]]]))
    >>> part(torch.tensor([[5.0, -5.0], [5.0, 5.0], [500.0, 5.0]])).tolist()
    [[30.0, 40.0], [10.0, 20.0], [10.0, 20.0]]

    The third token has the signs of the second, and its size does not matter. Of 24 parameters a token reads two
    rows, two biases and the norm: 12. The 8 FLOPs are those of the sums of rows.

    >>> part.cost()
    Cost(params=24, active_params=12, flops=8, state_bytes=0, weight_bytes=96)
    """

    name = "memory_former"

    def __init__(
        self, d_model: int, bits: int = 8, extra_bits: int = 2, weight: str = "softmax", temperature: float = 1.0
    ):
        super().__init__()
        require_positive(MemoryFormer, d_model=d_model, bits=bits)
        if isinstance(extra_bits, bool) or not isinstance(extra_bits, int) or extra_bits < 0:
            raise ValueError(f"MemoryFormer: extra_bits must be an integer of at least 0, not {extra_bits!r}.")
        if d_model % bits:
            raise ValueError(f"MemoryFormer: bits={bits} must divide d_model={d_model}; the input is cut in slices.")
        d_hidden = d_model // bits * (bits + extra_bits)
        self.up = MemoryLinear(d_model, d_hidden, bits, weight, temperature)
        self.norm = nn.LayerNorm(d_hidden)
        self.down = MemoryLinear(d_hidden, d_model, bits + extra_bits, weight, temperature)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.up(x)))

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        up, down = self.up.cost(batch, tokens), self.down.cost(batch, tokens)
        norm = 2 * self.norm.weight.numel()
        return Cost(
            params=up.params + norm + down.params,
            active_params=up.active_params + norm + down.active_params,
            flops=up.flops + down.flops,
            weight_bytes=stored_bytes(self),
        )
