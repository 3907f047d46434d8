"""Layer mix: every layer reads a learned weighted sum of what all layers before it wrote, not the last one alone.

    h_0 = x,   h_n = L_n(sum_{i<n} a_ni h_i),   a_n = softmax(w_n)  or  w_n itself
    y = h_N,   or with mix_output a last such sum over h_0 .. h_N

Softmax weights are convex. With "start" "last" w_n begins as (0, .., 0, 1), with "uniform" as zeros. Free weights (0,
.., 0, 1) are a plain stack of layers exactly; softmax weights come to it as the last w grows. The layers of the paper's
base variant leave the stream out at the mixer: `series` with residual {"mixer": [0, 1], "ffn": [1, 1]}.

Shapes: x (B, T, D) -> h_n (B, T, D) -> y (B, T, D); w_n (n), from n = 2 on. State: that of every layer, "1.k" for the
second.

Papers: Georges Gabriel Charpentier & Samuel 2023, "Not all layers are equally as important: Every Layer Counts BERT".
Confirmed in the authors' code (ltgoslo/elc-bert): softmax of w_n, its start, and its variants with zeros and with a
weighted output. Free weights: Pagliardini et al. 2024, "DenseFormer", arXiv 2402.02622.
Differs from the papers: the first layer has nothing to choose among, and no weight; in the variants with zeros and with
a weighted output the feed-forward also reads the stream that is left out, for which there is no arrangement here, and
the weighted output starts uniform.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Spec, Stack
from layersmith.contract import Operator, State, require_positive
from layersmith.errors import suggest

WEIGHTS = ("softmax", "free")
STARTS = ("last", "uniform")


class LayerMix(Stack):
    """Layers that choose among all earlier outputs.

    d_model      width of the residual stream
    layers       specs of the layers
    weights      "softmax": convex sums; "free": the weights themselves
    start        "last": all on the output before, as far as a softmax of (0, .., 0, 1) goes; "uniform": all alike
    mix_output   what leaves the block is such a sum too, not the last layer's output alone
    """

    name = "layer_mix"

    def __init__(
        self,
        d_model: int,
        layers: list[Spec],
        weights: str = "softmax",
        start: str = "last",
        mix_output: bool = False,
    ):
        super().__init__()
        require_positive(LayerMix, d_model=d_model)
        for name, value, known in (("weights", weights, WEIGHTS), ("start", start, STARTS)):
            if value not in known:
                raise ValueError(f"LayerMix: {name}={value!r} is unknown. {suggest(value, list(known))}")
        self.layers = self.build_layers(layers, d_model)
        self.softmax, self.mix_output = weights == "softmax", mix_output
        sums = range(2, len(layers) + 1 + mix_output)  # how many outputs there are to choose from; of one, no choice
        self.w = nn.ParameterList(nn.Parameter(_start(n, start, self.softmax)) for n in sums)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        kept: State = {}
        written = [x]
        for index in range(len(self.layers)):
            written.append(self.run(index, self.mixed(index, written), state, mask, kept))
        y = self.mixed(len(self.layers), written) if self.mix_output else written[-1]
        return y, self.finished(kept)

    def mixed(self, index: int, written: Sequence[Tensor]) -> Tensor:
        """What layer `index` reads, from all that has been written before it."""
        if index == 0:
            return written[0]
        weights = self.weights_of(index)
        total = weights[0] * written[0]
        for weight, output in zip(weights[1:], written[1:], strict=True):
            total = total + weight * output
        return total

    def weights_of(self, index: int) -> Tensor:
        """(index + 1): the weights of what has been written before layer `index` > 0; those of the output come last."""
        w = self.w[index - 1]
        return w.softmax(0) if self.softmax else w

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((layer, 1) for layer in self.inner())


def _start(n: int, start: str, softmax: bool) -> Tensor:
    if start == "uniform":
        return torch.zeros(n) if softmax else torch.full((n,), 1 / n)
    w = torch.zeros(n)
    w[-1] = 1.0
    return w
