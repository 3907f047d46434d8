"""Channel-idle feed-forward: some hidden channels skip the activation, so that their two matrices merge into one.

    y = W_2a act(W_1a x + b_1a) + W_2b (W_1b x + b_1b) + b_2             a: active channels, b: idle channels
    merged:   y = W_2a act(W_1a x + b_1a) + W x + b,     W = W_2b W_1b,   b = W_2b b_1b + b_2

Shapes: x (..., D) -> active hidden (..., d_active), idle hidden (..., d_idle) -> y (..., D); W (D, D).
Trained in the first form and used in the second (`merge()`), which gives equal outputs and is smaller as soon as
d_idle > D / 2: at d_active = D and d_idle = 3 D, 8 D^2 parameters become 3 D^2. Without idle channels it is an MLP.

Paper: Xu et al. 2025, "RePaViT: Scalable Vision Transformer Acceleration via Structural Reparameterization on
Feedforward Network Layers", arXiv 2505.21847. Confirmed in the authors' code (Ackesnal/RePaViT): the first channels
are active, ceil((1 - theta) d_hidden) of them with theta = 0.75; the merged matrices and biases.
Differs from the paper: they also fold batch norms and the residual connection into W, which here belong to the model.
`gated` is ours: active channels are multiplied by a second branch as in a GLU, idle ones are not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import activation


class IdleFFN(FeedForward):
    """Feed-forward of active (nonlinear) and idle (linear) hidden channels.

    d_model    width of the residual stream
    d_active   hidden channels with the activation
    d_idle     hidden channels without; None is the merged form, one (D, D) matrix in place of any number of them
    act        activation of the active channels
    gated      multiply the active channels by act(W_gate x), as in a GLU, instead of applying act to them
    bias       add biases
    """

    name = "idle_ffn"

    def __init__(
        self,
        d_model: int,
        d_active: int,
        d_idle: int | None = None,
        act: str = "gelu",
        gated: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        require_positive(IdleFFN, d_model=d_model, d_active=d_active)
        if d_idle is not None and d_idle < 0:
            raise ValueError(f"IdleFFN: d_idle must be at least 0, or None for the merged form, not {d_idle}.")
        self.d_active = d_active
        self.act = activation(act)
        self.gate = nn.Linear(d_model, d_active, bias=bias) if gated else None
        self.up = nn.Linear(d_model, d_active + (d_idle or 0), bias=bias)
        self.down = nn.Linear(d_active + (d_idle or 0), d_model, bias=bias)
        self.merged = nn.Linear(d_model, d_model, bias=False) if d_idle is None else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        active, idle = hidden[..., : self.d_active], hidden[..., self.d_active :]
        active = self.act(active) if self.gate is None else self.act(self.gate(x)) * active
        if self.merged is not None:
            return self.down(active) + self.merged(x)
        return self.down(torch.cat([active, idle], dim=-1))

    @torch.no_grad()
    def merge(self) -> IdleFFN:
        """The merged form, with equal outputs. The products are taken in float64."""
        if self.merged is not None:
            raise ValueError("IdleFFN: this part is merged already.")
        n, trained = self.d_active, self.state_dict()
        idle_in, idle_out = trained["up.weight"][n:].double(), trained["down.weight"][:, n:].double()
        state = {name: tensor for name, tensor in trained.items() if name.startswith("gate.")}
        state |= {"up.weight": trained["up.weight"][:n], "down.weight": trained["down.weight"][:, :n]}
        state["merged.weight"] = idle_out @ idle_in
        if "up.bias" in trained:
            state["up.bias"] = trained["up.bias"][:n]
            state["down.bias"] = F.linear(trained["up.bias"][n:].double(), idle_out, trained["down.bias"].double())
        config = {key: value for key, value in self.spec().items() if key != "name"}
        small = IdleFFN(**{**config, "d_idle": None}).to(self.up.weight)
        small.load_state_dict(state)
        return small
