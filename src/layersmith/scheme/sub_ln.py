"""Sub-LN (Magneto): a second norm inside every sublayer, before its output map, and weights that grow with depth.

    x <- x + W_o norm(attention(norm(x))),      x <- x + W_down norm(act(W_up norm(x)))
    W_v, W_o, W_up, W_down: Xavier with gain sqrt(ln 2N);      W_q, W_k: Xavier with gain 1              N layers

Shapes: W (d_out, d_in) with variance gain^2 * 2 / (d_in + d_out), biases 0; the new norms are as wide as d_in.

Paper: Wang et al. 2022, "Foundation Transformers" (Magneto), arXiv 2210.06423. Confirmed in the authors' code
(microsoft/torchscale, architecture/decoder.py, component/multihead_attention.py and feedforward_network.py): the
places of the norms, the gain sqrt(ln 2N) of a decoder and the maps it applies to.
Differs from the paper: Xavier weights are normal, not uniform. Their code applies the gain to torch's default start of
a linear map, biases included; here maps start at Xavier's deviation times the gain, and biases at 0.
"""

from __future__ import annotations

import math

from torch import nn

from layersmith.contract import Scheme
from layersmith.scheme.shared.edits import add_sub_norms, attention_maps, ffn_maps, reference, set_norm_position, xavier


class SubLN(Scheme):
    """Norms before the output maps as well, and depth-scaled Xavier weights.

    norm   catalogue name of the added norms
    """

    name = "sub_ln"
    expected = {"update_slope": (-0.5, 0.25)}  # noqa: RUF012

    def __init__(self, norm: str = "layer_norm"):
        if not isinstance(norm, str) or norm not in ("layer_norm", "rms_norm"):
            raise ValueError(f"SubLN: norm must be 'layer_norm' or 'rms_norm', not {norm!r}.")
        self.norm = norm

    def apply(self, model: nn.Module) -> None:
        model = reference(model, "SubLN")
        set_norm_position(model, "pre")
        add_sub_norms(model, {"name": self.norm})
        depth = model.config.num_hidden_layers
        gain = math.sqrt(math.log(2 * depth))
        for index in range(depth):
            for name, linear in (attention_maps(model, index) | ffn_maps(model, index)).items():
                xavier(linear, 1.0 if name in ("q", "k") else gain)
