"""Nested GLU: one set of weights holds feed-forwards of several widths, each the first channels of the next wider one.

    y_m = W_down[:, :m] ( act(W_gate[:m] x) * W_up[:m] x )            m one of the widths

Training draws a width for every forward, so that the first channels learn to do without the others; afterwards every
layer of a model may run at a width of its own, and `sliced` is an ordinary `glu`.

Shapes: x (..., D) -> hidden (..., m) -> y (..., D).

Paper: Devvrit et al. 2023, "MatFormer: Nested Transformer for Elastic Inference", arXiv 2310.07707. Confirmed in the
released code (RAIVNLab/MatFormer-OLMo): first rows and columns, widths of an eighth, a quarter, a half and the whole.
That one is drawn uniformly is said of the paper; that code adds up the gradients of all four in every step.
Differs from the paper: every layer draws for itself, where the paper draws one width for all layers of a step; gated,
where the paper's feed-forward has two matrices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.ffn.glu import GLU
from layersmith.ffn.shared.activations import activation


class NestedGLU(FeedForward):
    """GLUs within a GLU.

    d_model, d_hidden   widths of the residual stream and of the widest hidden layer
    widths              hidden widths that training draws from, the last of them d_hidden; None: an eighth, a quarter,
                        a half and the whole
    width               at which it runs when not in training, of any number of channels; None: all
    act, bias           as for `glu`

    Worked example. Two channels, of which the first reads x_1 and the second x_2; the gates are always 1 here:

    >>> import torch
    >>> part = NestedGLU(2, 2, widths=[1, 2], act="identity", bias=True)
    >>> with torch.no_grad():
    ...     for linear in (part.gate, part.up, part.down):
    ...         _ = linear.weight.copy_(torch.eye(2)), linear.bias.zero_()
    ...     _ = part.gate.weight.zero_(), part.gate.bias.fill_(1.0)
    >>> x = torch.tensor([3.0, 5.0])
    >>> part.eval()(x).tolist(), part.sliced(1)(x).tolist()
    ([3.0, 5.0], [3.0, 0.0])
    """

    name = "nested_glu"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        widths: list[int] | None = None,
        width: int | None = None,
        act: str = "silu",
        bias: bool = False,
    ):
        super().__init__()
        require_positive(NestedGLU, d_model=d_model, d_hidden=d_hidden)
        self.widths = sorted({max(1, d_hidden // part) for part in (8, 4, 2, 1)}) if widths is None else widths
        if (
            not self.widths
            or self.widths[-1] != d_hidden
            or self.widths != sorted({*self.widths})
            or self.widths[0] < 1
        ):
            raise ValueError(f"NestedGLU: widths={widths!r} must be rising widths that end with d_hidden={d_hidden}.")
        self.width = d_hidden if width is None else width
        if not 1 <= self.width <= d_hidden:
            raise ValueError(f"NestedGLU: width={width!r} must be from 1 to d_hidden={d_hidden}.")
        self.act = activation(act)
        self.gate = nn.Linear(d_model, d_hidden, bias=bias)
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.down = nn.Linear(d_hidden, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        m = self.width
        if self.training:
            m = self.widths[int(torch.randint(len(self.widths), (), device="cpu"))]
        return F.linear(
            self.act(_first(self.gate, m, x)) * _first(self.up, m, x), self.down.weight[:, :m], self.down.bias
        )

    @torch.no_grad()
    def sliced(self, m: int) -> GLU:
        """An ordinary GLU of the first m channels."""
        spec = self.spec()
        small = GLU(spec["d_model"], m, act=spec["act"], bias=spec["bias"]).to(self.down.weight)
        for ours, theirs in ((self.gate, small.gate), (self.up, small.up)):
            theirs.load_state_dict({name: tensor[:m] for name, tensor in ours.state_dict().items()})
        small.down.load_state_dict(self.down.state_dict() | {"weight": self.down.weight[:, :m]})
        return small

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        d_hidden, d_model = self.gate.weight.shape
        per_channel = 3 * d_model + (0 if self.gate.bias is None else 2)
        return Cost(
            params=params,
            active_params=params - per_channel * (d_hidden - self.width),
            flops=2 * batch * tokens * 3 * d_model * self.width,
            weight_bytes=stored_bytes(self),
        )


def _first(linear: nn.Linear, m: int, x: Tensor) -> Tensor:
    """The first m outputs of the map."""
    return F.linear(x, linear.weight[:m], None if linear.bias is None else linear.bias[:m])
