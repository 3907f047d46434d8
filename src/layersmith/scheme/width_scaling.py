"""Width scaling: initial variances and learning rates for each kind of weight that keep a step's size at any width.

    matrices in layers have variance 1 / d_in, the output map (1 / d) (d_0 / d)^s:
    s = 0  neural-tangent: features hardly move at large width;      s = 1  maximal update: they move by order one

    Adam: lr times      matrices (d_0 / d)^((3 - s) / 2)     vectors, embedding (d_0 / d)^((1 - s) / 2)   output d_0 / d
    SGD:  lr times      matrices (d_0 / d)^(1 - s)           vectors, embedding (d_0 / d)^(-s)            output d_0 / d

A weight W_ij between features of order one has gradient ~ d^(-(1 + s) / 2) in a logit. The step changes the logit by
lr * sum |gradient| (Adam, whose first step is a sign step) or lr * sum gradient^2 (SGD); each kind's rate makes its
own sum of order one.

Shapes: W (d_out, d_in), biases 0.

Paper: Dinan, Yaida, Zhang 2023, "Effective Theory of Transformers at Initialization", arXiv 2304.02034. Confirmed in
its abstract and summaries: width scalings of initialization and of learning rates per kind, for SGD and AdamW, from
order-one signals and order-one neural tangent kernels. The exponents are not confirmed against its text: they are
derived here as above, and checked by measuring steps over width.
Differs from the paper: one rule for all vectors; nothing about depth.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from layersmith.contract import Scheme, require_positive
from layersmith.errors import UserError
from layersmith.scheme.shared.edits import attention_maps, draw, ffn_maps, reference
from layersmith.scheme.shared.groups import groups

OPTIMIZERS = ("adam", "sgd")


class WidthScaling(Scheme):
    """Initial variances, and learning rates relative to a model of width `base_width`.

    base_width   at which the learning rate was found
    mode         s, from 0 (neural tangent) to 1 (maximal update)
    optimizer    "adam" or "sgd"
    """

    name = "width_scaling"
    expected = {"step_by_width": (-0.3, 0.3)}  # noqa: RUF012

    def __init__(self, base_width: int = 64, mode: float = 0.0, optimizer: str = "adam"):
        require_positive(WidthScaling, base_width=base_width)
        if not 0 <= mode <= 1:
            raise ValueError(f"WidthScaling: mode must be between 0 and 1, not {mode!r}.")
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"WidthScaling: optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}.")
        self.base_width, self.mode, self.optimizer = base_width, mode, optimizer

    def apply(self, model: nn.Module) -> None:
        model = reference(model, "WidthScaling")
        width = model.config.d_model
        if model.config.tie_word_embeddings:
            raise UserError(
                "WidthScaling gives embedding and output map different variances: they cannot be one matrix. Build "
                "the model with tie_word_embeddings=False."
            )
        nn.init.normal_(model.embed_tokens.weight)
        nn.init.normal_(model.lm_head.weight, std=(self.base_width / width) ** (self.mode / 2) * width**-0.5)
        for index in range(model.config.num_hidden_layers):
            for linear in (attention_maps(model, index) | ffn_maps(model, index)).values():
                draw(linear, 1 / linear.in_features)

    def learning_rates(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        model = reference(model, "WidthScaling")
        ratio, s = self.base_width / model.config.d_model, self.mode
        adam = self.optimizer == "adam"
        vectors = ratio ** ((1 - s) / 2 if adam else -s)
        return groups(
            model,
            lr,
            {
                "embedding": vectors,
                "hidden": ratio ** ((3 - s) / 2 if adam else 1 - s),
                "layer_vectors": vectors,
                "final_vectors": vectors,
                "readout": ratio,
            },
        )
