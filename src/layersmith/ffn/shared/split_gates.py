"""What says which groups of a feed-forward's neurons a token needs: one class a gate, for `split_ffn`.

    gate(tokens (N, D), layer) -> s (N, E) in float32 at least; the larger, the more a group is needed

A gate with weights of its own is a router. The others read the layer: its keys, which are the rows on the way in (in
gated layers those of the gate), without the groups that every token uses.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearGate(nn.Module):
    """s = R x + r."""

    router = True

    def __init__(self, d_model: int, n_experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, d_model))
        self.bias = nn.Parameter(torch.empty(n_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[1] ** -0.5  # as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, tokens: Tensor, layer: Any) -> Tensor:
        return F.linear(tokens, self.weight.to(tokens.dtype), self.bias.to(tokens.dtype))


class MLPGate(nn.Module):
    """s = M tanh(R x / |x|). M starts as the identity."""

    router = True

    def __init__(self, d_model: int, n_experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, d_model))
        self.mix = nn.Parameter(torch.empty(n_experts, n_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.weight.shape[1] ** -0.5), self.weight.shape[1] ** -0.5)
        nn.init.eye_(self.mix)

    def forward(self, tokens: Tensor, layer: Any) -> Tensor:
        near = F.linear(F.normalize(tokens, dim=-1), self.weight.to(tokens.dtype)).tanh()
        return F.linear(near, self.mix.to(tokens.dtype))


class KeysGate(nn.Module):
    """s_e = the mean over the group of key . x + bias: the mean pre-activation. No parameters."""

    router = False

    def __init__(self, d_model: int, n_experts: int):
        super().__init__()
        self._kept: tuple[object, Tensor, Tensor | None] | None = None

    def forward(self, tokens: Tensor, layer: Any) -> Tensor:
        mean, offset = self._means(layer)
        return F.linear(tokens, mean.to(tokens.dtype), None if offset is None else offset.to(tokens.dtype))

    def _means(self, layer: Any) -> tuple[Tensor, Tensor | None]:
        """(E, D), (E,). To read all keys takes a third of the layer's time, so in inference their means are kept until
        the weights change (writing to a parameter's `.data` goes unseen)."""
        keys, bias = layer.keys()
        watched = not (torch.compiler.is_compiling() or layer.training or keys.is_meta) and type(keys) is nn.Parameter
        stamp = None
        if watched and not keys.is_inference():  # what is made in inference mode is of no use outside
            versions = (keys._version, 0 if bias is None else bias._version)
            stamp = (*versions, keys.data_ptr(), keys.dtype, torch.is_inference_mode_enabled())
        if stamp is not None and self._kept is not None and self._kept[0] == stamp:
            return self._kept[1], self._kept[2]
        routed = slice(layer.n_shared, None)
        mean = keys.detach()[routed].mean(1)
        offset = None if bias is None else bias.detach()[routed].mean(1)
        self._kept = None if stamp is None else (stamp, mean, offset)
        return mean, offset


class OracleGate(nn.Module):
    """s_e = the sum over the group of |hidden activation|. Computes every neuron, so that nothing is skipped."""

    router = False

    def __init__(self, d_model: int, n_experts: int):
        super().__init__()

    def forward(self, tokens: Tensor, layer: Any) -> Tensor:
        hidden = layer.hidden(tokens)[:, layer.n_shared :]
        strength: Tensor = hidden.detach().abs().sum(-1)
        return strength


GATES: dict[str, type[LinearGate | MLPGate | KeysGate | OracleGate]] = {
    "keys": KeysGate,
    "linear": LinearGate,
    "mlp": MLPGate,
    "oracle": OracleGate,
}
