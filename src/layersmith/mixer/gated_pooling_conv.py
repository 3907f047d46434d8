"""Convolutions over the last words, whose neighbouring outputs are pooled by a gate instead of a maximum.

    window_t = x_{t-L+1} .. x_t                       zeros before the start
    z_j = relu([W patch_j + b, W_j patch_j + b_j])    patch_j: `kernel` neighbours; W one map for all places of the
                                                      window, W_j one for each
    p_j = g_j * z_{2j} + (1 - g_j) * z_{2j+1}         g_j = sigmoid(G [z_{2j}, z_{2j+1}])
    y_t = W_o [p_0, p_1, ...]                         behind `layers` such layers

A last place without a neighbour is handed on as it is. A maximum keeps the stronger of two; the gate can also take the
one that the other says is relevant.

Shapes: x (B, T, D) -> windows (B, T, L, D) -> z (B, T, places, 2 d_hidden) -> y (B, T, D).
State: inputs (B, D, L - 1), the last tokens.

Paper: Wang et al. 2015, "genCNN: A Convolutional Architecture for Word Sequence Prediction", arXiv 1503.05034 (maps
shared over time and maps of a place, gates between neighbours). Not confirmed in released code: from memory.
Differs from the paper: words before the window are not summarised by a second network; ReLU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.packed import PackedMixer
from layersmith.mixer.shared.short_conv import with_past


class GatedPooling(nn.Module):
    """One layer: (B, T, places, d_in) -> (B, T, ceil((places - kernel + 1) / 2), 2 d_hidden)."""

    def __init__(self, d_in: int, d_hidden: int, places: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.everywhere = nn.Linear(kernel * d_in, d_hidden)
        self.place = nn.Parameter(torch.empty(places - kernel + 1, kernel * d_in, d_hidden))
        self.place_bias = nn.Parameter(torch.zeros(places - kernel + 1, d_hidden))
        nn.init.uniform_(self.place, -((kernel * d_in) ** -0.5), (kernel * d_in) ** -0.5)
        self.gate = nn.Linear(4 * d_hidden, 2 * d_hidden) if places > kernel else None

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, self.kernel, 1).flatten(-2)
        own = torch.einsum("btji,jih->btjh", patches, self.place.to(patches.dtype)) + self.place_bias
        z = F.relu(torch.cat((self.everywhere(patches), own), dim=-1))
        if self.gate is None:  # a single place, which has no neighbour
            return z
        pairs = z.shape[2] // 2
        first, second = z[:, :, : 2 * pairs].unflatten(2, (pairs, 2)).unbind(3)
        gate = self.gate(torch.cat((first, second), dim=-1)).sigmoid()
        return torch.cat((gate * first + (1 - gate) * second, z[:, :, 2 * pairs :]), dim=2)


class GatedPoolingConv(PackedMixer):
    """A convolutional network over the last tokens.

    d_model     width of the residual stream
    d_hidden    feature maps shared over the window, and as many of each place
    window      L, tokens that are read, the last included
    kernel      places that a map reads
    layers      layers of convolution and pooling
    """

    name = "gated_pooling_conv"

    def __init__(self, d_model: int, d_hidden: int, window: int = 16, kernel: int = 3, layers: int = 2):
        super().__init__()
        require_positive(GatedPoolingConv, d_model=d_model, d_hidden=d_hidden, window=window, kernel=kernel)
        require_positive(GatedPoolingConv, layers=layers)
        self.window, places, width = window, window, d_model
        parts = []
        for _ in range(layers):
            if places < kernel:
                raise ValueError(
                    f"GatedPoolingConv: window={window} leaves {places} places for one of layers={layers} layers, and "
                    f"kernel={kernel} needs as many. Take a larger window, a smaller kernel or fewer layers."
                )
            parts.append(GatedPooling(width, d_hidden, places, kernel))
            places, width = -(-(places - kernel + 1) // 2), 2 * d_hidden
        self.layers = nn.ModuleList(parts)
        self.o = nn.Linear(places * width, d_model)

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        inputs, last = with_past(x, None if state is None else state["inputs"], self.window - 1, n_real)
        z = inputs.unfold(-1, self.window, 1).movedim(1, -1)  # (B, T, L, D)
        for layer in self.layers:
            z = layer(z)
        return self.o(z.flatten(2)), {"inputs": last}
