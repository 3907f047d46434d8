"""Deep MLP: a feed-forward of any number of linear maps; two are the usual one, three and one are variations.

    h_0 = x,   h_i = act(W_i h_{i-1} + b_i)  for i = 1 .. layers - 1,   y = W_layers h_{layers-1} + b_layers

Shapes: x (..., D) -> (..., d_hidden) layers - 1 times -> y (..., D). One layer is a single linear map.
A third layer is not a small change: it adds d_hidden^2 weights, which at d_hidden = 4 D is twice as many as the two
layers have together. One layer is the part `affine`, two are the `mlp`.

Paper: Gerber 2025, "Attention Is Not All You Need: The Importance of Feedforward Networks in Transformer Models",
arXiv 2505.06633. Confirmed in its abstract and a public summary: zero to three linear layers, and that three of them in
fewer blocks beat two. Not confirmed: all hidden widths are equal, and its activation.
Differs from the paper: no layers at all is the part `zero`.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import activation


class DeepMLP(FeedForward):
    """Feed-forward with a chosen number of linear layers.

    d_model, d_hidden   widths of the residual stream and of every hidden layer
    layers              linear maps; 1 is a linear map from d_model to d_model, 2 the `mlp`
    act                 activation between them
    bias                add biases

    Worked example. Three layers, the first and the last the identity; the one in the middle subtracts x_2 from x_1:

    >>> import torch
    >>> part = DeepMLP(2, 2, layers=3, act="relu", bias=False)
    >>> weights = [torch.eye(2), torch.tensor([[1.0, -1.0], [0.0, 1.0]]), torch.eye(2)]
    >>> _ = part.load_state_dict({f"layers.{i}.weight": w for i, w in enumerate(weights)})
    >>> x = torch.tensor([[5.0, 2.0], [2.0, 5.0]])
    >>> part(x).tolist()
    [[3.0, 2.0], [0.0, 5.0]]

    With the identity in the middle it changes nothing there, since relu(relu(h)) = relu(h): the limit case in which
    three layers are the MLP with two.

    >>> _ = part.load_state_dict({f"layers.{i}.weight": torch.eye(2) for i in range(3)})
    >>> part(torch.tensor([5.0, -2.0])).tolist()
    [5.0, 0.0]

    Weights of one, two and three layers at d_hidden = 4 D: D^2, 8 D^2 and 24 D^2.

    >>> [DeepMLP(2, 8, layers=n, bias=False).cost().params for n in (1, 2, 3)]
    [4, 32, 96]
    """

    name = "deep_mlp"

    def __init__(self, d_model: int, d_hidden: int, layers: int = 3, act: str = "gelu", bias: bool = True):
        super().__init__()
        require_positive(DeepMLP, d_model=d_model, d_hidden=d_hidden, layers=layers)
        self.act = activation(act)
        widths = [d_model, *[d_hidden] * (layers - 1), d_model]
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.act(layer(x))
        return last(x)
