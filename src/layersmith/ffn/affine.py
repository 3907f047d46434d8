"""The feed-forward without a hidden layer: one affine map, the floor that a ridge regression sets.

    y = W x + b

Shapes: x (..., D) -> y (..., D); W (D, D), b (D,).

The method `linear` fits it to a sublayer by ridge regression of the outputs on the inputs. A replacement that costs
more than D^2 has to come closer than that. W = 0 is the part `constant`, W = I with b = 0 the `identity`, a W of low
rank `low_rank_affine`; one layer of `deep_mlp` is this map. At an attention site it reads one token at a time, like
every part of its family: what attention fetched from other tokens is out of its reach.

Paper: none; a floor (it is also the "linear" replacement of a trained sublayer in Puzzle, arXiv 2411.19146).
Differs from the paper: does not apply.
"""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive


class Affine(FeedForward):
    """y = W x + b; the weights are those of the `nn.Linear` named `linear`.

    d_model   width of the residual stream
    bias      keep b (off: y = W x)

    Worked example. The first output adds x_1 and twice x_2 to 10, the second is -x_2:

    >>> import torch
    >>> part = Affine(2)
    >>> _ = part.load_state_dict(
    ...     {"linear.weight": torch.tensor([[1.0, 2.0], [0.0, -1.0]]), "linear.bias": torch.tensor([10.0, 0.0])}
    ... )
    >>> x = torch.tensor([[1.0, 1.0], [3.0, 5.0]])
    >>> part(x).tolist()
    [[13.0, -1.0], [23.0, -5.0]]

    What no affine map can do is bend: the middle of two tokens goes to the middle of their outputs.

    >>> part(x.mean(0)).tolist()
    [18.0, -3.0]

    With W = 0 every token gets b, as from `constant`.

    >>> _ = torch.nn.init.zeros_(part.linear.weight)
    >>> part(x).tolist()
    [[10.0, 0.0], [10.0, 0.0]]

    Cost of two tokens: 4 weights and 2 biases, and 2 FLOPs for each weight and token.

    >>> part.cost(batch=1, tokens=2)
    Cost(params=6, active_params=6, flops=16, state_bytes=0, weight_bytes=24)
    """

    name = "affine"

    def __init__(self, d_model: int, bias: bool = True):
        super().__init__()
        require_positive(Affine, d_model=d_model)
        self.linear = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)
