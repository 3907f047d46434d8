"""Masked GLU: gate and value share one matrix, and learned binary masks say which of its elements serve which.

    g_i = act( (M_i * W) x ),   v_i = ((1 - M_i) * W) x = W x - (M_i * W) x,   M_i in {0, 1},   i = 1 .. n_masks
    y   = W_down sum_i g_i * v_i

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D); W (d_hidden, D), M (n_masks, d_hidden, D).
Training: M_i = 1 where its logit is positive; the gradient passes straight through to the logit. `pack()` then fixes
the masks and stores them as one bit for each element, which makes the part smaller than a GLU of the same width in
bytes: at 32-bit weights (2 + n_masks / 32) / 3 of them. With packed masks a few tokens on a CPU go through a kernel
that reads W once for all masks (`kernels.masked`); every other call makes the masked copies of W, which is slower than
the GLU.

Paper: Tajima et al. 2025, "Masked Gated Linear Unit", arXiv 2506.23225. Confirmed in its text: several learned binary
masks, each a gate-or-value choice for every element of one shared matrix, positive logits and the identity as their
gradient; Swish makes it SwiMGLU. Not confirmed: that the products of several masks are summed (it says aggregated).
Differs from the paper: its fused kernel is for GPUs; its logits start at 0.01 times a normal draw, ours at a size
between 0.25 and 0.5. A mask bit counts as a parameter in `cost`, in both forms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.ffn.shared.activations import activation
from layersmith.kernels import masked as kernel


class MGLU(FeedForward):
    """GLU whose two input matrices are complementary parts of one.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    n_masks             masks over the shared matrix
    act                 gate activation: "silu" (SwiMGLU), "sigmoid", "gelu", ...
    packed              fixed masks, one bit for each element, instead of trainable logits
    """

    name = "mglu"

    masks: Tensor

    def __init__(self, d_model: int, d_hidden: int, n_masks: int = 1, act: str = "silu", packed: bool = False):
        super().__init__()
        require_positive(MGLU, d_model=d_model, d_hidden=d_hidden, n_masks=n_masks)
        self.act = activation(act)
        self.shared = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)
        # Half gate, half value at random; away from 0, so that small steps do not flip masks back and forth.
        logits = torch.empty(n_masks, d_hidden, d_model).uniform_(-0.25, 0.25)
        logits = logits + 0.25 * torch.where(logits > 0, 1.0, -1.0)
        self.logits = None if packed else nn.Parameter(logits)
        if packed:
            self.register_buffer("masks", pack_bits(logits > 0))

    def mask(self) -> Tensor:
        """M (n_masks, d_hidden, D), in the weights' dtype. In training it carries a gradient to the logits."""
        if self.logits is None:
            return unpack_bits(self.masks, self.shared.in_features).to(self.shared.weight.dtype)
        hard = (self.logits > 0).to(self.logits.dtype)
        return hard + (self.logits - self.logits.detach()) if self.training else hard

    def forward(self, x: Tensor) -> Tensor:
        whole, gate = self.products(x)
        return self.down((self.act(gate) * (whole - gate)).sum(-2))

    def products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """W x (..., 1, d_hidden) and (M_i * W) x (..., n_masks, d_hidden)."""
        rows = x.reshape(-1, x.shape[-1])
        if self.logits is None and kernel.serves(rows, self.shared.weight):
            whole, gate = kernel.masked_products(rows, self.shared.weight, self.masks)
            return whole.reshape(*x.shape[:-1], 1, -1), gate.reshape(*x.shape[:-1], *gate.shape[1:])
        mask = self.mask()
        gate = F.linear(x, (mask * self.shared.weight).flatten(0, 1)).unflatten(-1, mask.shape[:2])
        return self.shared(x).unsqueeze(-2), gate

    @torch.no_grad()
    def pack(self) -> MGLU:
        """The same map with its masks fixed and stored as bits."""
        if self.logits is None:
            raise ValueError("MGLU: the masks of this part are packed already.")
        config = {key: value for key, value in self.spec().items() if key != "name"}
        small = MGLU(**{**config, "packed": True}).to(self.shared.weight)
        small.shared.load_state_dict(self.shared.state_dict())
        small.down.load_state_dict(self.down.state_dict())
        small.masks.copy_(pack_bits(self.logits > 0))
        return small

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        bits = self.mask().numel() if self.logits is None else 0
        params = sum(p.numel() for p in self.parameters()) + bits
        return Cost(
            params=params,
            active_params=params,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


def pack_bits(mask: Tensor) -> Tensor:
    """bool (..., n) -> uint8 (..., ceil(n / 8)); element i is bit i % 8 of byte i // 8."""
    bits = F.pad(mask.to(torch.uint8), (0, -mask.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (bits << torch.arange(8, device=mask.device, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The inverse of `pack_bits`: uint8 0 or 1, (..., n)."""
    bits = packed[..., None] >> torch.arange(8, device=packed.device, dtype=torch.uint8)
    return (bits & 1).flatten(-2)[..., :n]
