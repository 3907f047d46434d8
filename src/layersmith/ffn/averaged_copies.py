"""Averaged copies of a feed-forward: trained on random shares of the tokens, drawn together, used as one.

    training    tokens are dealt out at random to N experts in equal shares; before the first forward after an optimizer
                step every weight goes W_i <- (1 - b) W_i + b mean over j != i of W_j
    inference   one feed-forward with the mean of all N weights

There is no router, and a token costs what it costs in a dense layer. b = (N - 1) / N makes all experts their mean: with
plain SGD that is the dense layer trained at the learning rate / N.

Shapes: x (..., D) -> y (..., D); W_up, W_gate (N, d_hidden, D), W_down (N, D, d_hidden). `collapsed` gives the dense
layer, which the fold `mean_of_copies` puts in place; before that the mean is formed at every forward.

Paper: Huang et al. 2023, "Experts Weights Averaging: A New General Training Scheme for Vision Transformers", arXiv
2308.06093: random uniform partition, averaging after every step, the mean in the end (its abstract); the formula of the
averaging step, in which b is the share rate, is from memory.
Differs from the paper: the copies start equal, and their b is constant.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import activation


class AveragedCopies(FeedForward):
    """N copies of one feed-forward in training, their mean in inference.

    d_model, d_hidden   widths of the residual stream and of one copy's hidden layer
    n_experts           copies N, at least two
    share               b: how far a weight goes to the mean of the others after each step, from 0 to 1
    act, gated, bias    form of the feed-forward: that of `glu`, without `gated` that of `mlp`
    """

    name = "averaged_copies"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        n_experts: int = 4,
        share: float = 0.1,
        act: str = "gelu",
        gated: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        require_positive(AveragedCopies, d_model=d_model, d_hidden=d_hidden, n_experts=n_experts)
        if n_experts < 2:
            raise ValueError("AveragedCopies: n_experts must be at least 2; one copy is the dense layer.")
        if not 0 <= share <= 1:
            raise ValueError(f"AveragedCopies: share must lie in [0, 1], not {share!r}.")
        self.n_experts, self.share = n_experts, share
        self.act = activation(act)
        self.up = nn.Parameter(torch.empty(n_experts, d_hidden, d_model))
        self.gate = nn.Parameter(torch.empty(n_experts, d_hidden, d_model)) if gated else None
        self.down = nn.Parameter(torch.empty(n_experts, d_model, d_hidden))
        self.up_bias = nn.Parameter(torch.empty(n_experts, d_hidden)) if bias else None
        self.gate_bias = nn.Parameter(torch.empty(n_experts, d_hidden)) if bias and gated else None
        self.down_bias = nn.Parameter(torch.empty(n_experts, d_model)) if bias else None
        self._seen: int | None = None
        self.register_load_state_dict_post_hook(_stored_behind_a_step)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _, d_hidden, d_model = self.up.shape
        with torch.no_grad():
            for name, parameter in self.named_parameters():  # as nn.Linear, the same in every copy
                bound = (d_hidden if name.startswith("down") else d_model) ** -0.5
                parameter.copy_(torch.empty_like(parameter[0]).uniform_(-bound, bound).expand_as(parameter))

    @classmethod
    def from_dense(cls, dense: GLU | MLP, n_experts: int, share: float = 0.1) -> AveragedCopies:
        """Equal copies of a trained layer."""
        config = dense.spec()
        part = cls(
            config["d_model"],
            config["d_hidden"],
            n_experts,
            share,
            act=config["act"],
            gated=isinstance(dense, GLU),
            bias=config["bias"],
        ).to(dense.up.weight)
        with torch.no_grad():
            for name, trained in dense.named_parameters():
                part.get_parameter(_ours(name)).copy_(trained.expand(n_experts, *trained.shape))
        return part

    def collapsed(self) -> GLU | MLP:
        """The dense layer with the mean of all copies' weights."""
        keys = ("d_model", "d_hidden", "act", "bias")
        kind = MLP if self.gate is None else GLU
        dense = kind(**{key: self._config[key] for key in keys}).to(self.up).train(self.training)
        with torch.no_grad():
            for name, parameter in dense.named_parameters():
                parameter.copy_(self.get_parameter(_ours(name)).mean(0))
        return dense

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._layer(x, {name: weight.mean(0) for name, weight in self._weights().items()})
        if torch.is_grad_enabled():
            self._average()
        tokens = x.reshape(-1, x.shape[-1])
        order = torch.rand_like(tokens[:, 0], dtype=torch.float32).argsort()
        shares = tokens[order].tensor_split(self.n_experts)
        copies = [{name: weight[i] for name, weight in self._weights().items()} for i in range(self.n_experts)]
        y = torch.cat([self._layer(rows, own) for rows, own in zip(shares, copies, strict=True)])
        return y[order.argsort()].reshape(x.shape)

    def _weights(self) -> dict[str, Tensor]:
        """Those of all copies, by name."""
        held = {
            "up": self.up,
            "gate": self.gate,
            "down": self.down,
            "up_bias": self.up_bias,
            "gate_bias": self.gate_bias,
            "down_bias": self.down_bias,
        }
        return {name: weight for name, weight in held.items() if weight is not None}

    def _layer(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        up = F.linear(x, weights["up"], weights.get("up_bias"))
        if "gate" in weights:
            hidden = self.act(F.linear(x, weights["gate"], weights.get("gate_bias"))) * up
        else:
            hidden = self.act(up)
        return F.linear(hidden, weights["down"], weights.get("down_bias"))

    @torch.no_grad()
    def _average(self) -> None:
        """Draw the copies together, once for every change of the weights: an optimizer step is one."""
        if self._seen == self._versions():
            return
        if self._seen is not None:
            for parameter in self.parameters():
                others = (parameter.sum(0) - parameter) / (self.n_experts - 1)
                parameter.lerp_(others, self.share)
        self._seen = self._versions()

    def _versions(self) -> int:
        return sum(parameter._version for parameter in self.parameters())


def _stored_behind_a_step(part: AveragedCopies, keys: object) -> None:
    """Training that is taken up again with loaded weights has a change of them to draw the copies together for."""
    part._seen = -1


def _ours(name: str) -> str:
    """Of a dense layer's "up.weight" and "up.bias": "up" and "up_bias"."""
    return name.removesuffix(".weight").replace(".bias", "_bias")
