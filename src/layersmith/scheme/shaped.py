"""Shaped Transformer: residual sums of constant variance around shaped parts, so that tokens stay apart at any depth.

    x <- lambda x + gamma f(norm(x)),   lambda^2 + gamma^2 = 1          f: shaped_attention, shaped_mlp
    W_q, W_k, W_v, W_o, W_up: variance 1 / d_in;   W_down: 2 / (s_+^2 + s_-^2) / d_hidden

Shapes: W (d_out, d_in), biases 0.

Paper: Noci et al. 2023, "The Shaped Transformer: Attention Models in the Infinite Depth-and-Width Limit", arXiv
2306.17759. Confirmed in its abstract: skip connections, the identity-centred softmax with a width-dependent
temperature. That lambda^2 + gamma^2 = 1 is not confirmed against its text.
Differs from the paper: norms may stand before the parts; theirs has none in the analysed model. The limiting SDE is
not part of this: what it says about tokens at depth is measured instead.
"""

from __future__ import annotations

from torch import nn

from layersmith.contract import Scheme
from layersmith.errors import UserError
from layersmith.ffn.shaped_mlp import ShapedMLP
from layersmith.mixer.shaped_attention import ShapedAttention
from layersmith.scheme.shared.edits import attention_maps, draw, ffn_maps, layers_of, reference, set_residual


class Shaped(Scheme):
    """Weights and residual factors of the shaped transformer, for a model of shaped parts.

    gamma   factor of the branches, between 0 and 1
    """

    name = "shaped"
    expected = {"activation": (0.7, 1.4), "gradient": (0.5, 2.0), "cosine": (-0.2, 0.6)}  # noqa: RUF012
    tested_on = {  # noqa: RUF012
        "mixer": {"name": "shaped_attention", "n_heads": 4},
        "ffn": {"name": "shaped_mlp", "d_hidden": 128},
    }

    def __init__(self, gamma: float = 0.3):
        if not 0 < gamma < 1:
            raise ValueError(f"Shaped: gamma must be between 0 and 1, not {gamma!r}.")
        self.gamma = gamma

    def apply(self, model: nn.Module) -> None:
        model = reference(model, "Shaped")
        factors = ((1 - self.gamma**2) ** 0.5, self.gamma)
        for index, layer in enumerate(layers_of(model)):
            mixer, ffn = layer.mixer, layer.ffn
            if not (isinstance(mixer, ShapedAttention) and isinstance(ffn, ShapedMLP)):
                raise UserError(
                    f"Layer {index} has a {type(mixer).__name__} and a {type(ffn).__name__}; this scheme is for layers "
                    f"of 'shaped_attention' and 'shaped_mlp'."
                )
            set_residual(model, index, factors, factors)
            for name, linear in (attention_maps(model, index) | ffn_maps(model, index)).items():
                gain = 2 / (ffn.above**2 + ffn.below**2) if name == "down" else 1.0
                draw(linear, gain / linear.in_features)
