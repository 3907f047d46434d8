"""Depth-muP: residual branches shrink with the square root of depth and so does Adam's step, on top of muP for width.

    x <- x + branch / sqrt(L / L_0) * f(norm(x))                                       L layers
    kind                      initial variance      Adam's learning rate
    matrices in layers        1 / d_in              lr * (d_0 / d) / sqrt(L / L_0)
    other weights in layers   as they are           lr / sqrt(L / L_0)
    output map                d_0 / d^2             lr * (d_0 / d)
    embedding, last norm      1 (embedding)         lr

With these, features and what a step changes in them keep their size as width d and depth L grow, so that a learning
rate found on a small model (d_0, L_0) is right for a large one.

Shapes: W (d_out, d_in), biases as they are.

Paper: Yang et al. 2023, "Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks", arXiv 2310.02244.
Confirmed in EleutherAI/nanoGPT-mup (branch completep, with its depth exponent at 1/2): the factor of the branches and
of the learning rates of matrices and vectors in the layers, and the width factors. Confirmed in the paper's abstract:
the parametrisation is optimal for blocks of one map; transformer blocks have more, and limits of this kind fall short.
Differs from the paper: no mean is subtracted after the nonlinearity (their one-map blocks do); heads keep their width
as the model grows, so attention scores are scaled as ever.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from layersmith.contract import Scheme, require_positive
from layersmith.errors import UserError
from layersmith.scheme.shared.edits import attention_maps, draw, ffn_maps, reference, set_residual
from layersmith.scheme.shared.groups import groups


class DepthMuP(Scheme):
    """Initial weights, residual factors and learning rates for Adam that transfer over width and depth.

    base_width, base_depth   of the model on which the learning rate was found
    branch                   factor of the residual branches at base_depth, more than 0
    """

    name = "depth_mup"
    expected = {  # noqa: RUF012
        "activation": (0.8, 1.8),
        "step_by_depth": (-0.3, 0.3),
        "step_by_width": (-0.3, 0.3),
    }

    def __init__(self, base_width: int = 64, base_depth: int = 1, branch: float = 1.0):
        for name, value in (("base_width", base_width), ("base_depth", base_depth)):
            require_positive(DepthMuP, **{name: value})
        if not branch > 0:
            raise ValueError(f"DepthMuP: branch must be more than 0, not {branch!r}.")
        self.base_width, self.base_depth, self.branch = base_width, base_depth, branch

    def apply(self, model: nn.Module) -> None:
        model = reference(model, "DepthMuP")
        width, depth = model.config.d_model, model.config.num_hidden_layers
        if model.config.tie_word_embeddings:
            raise UserError(
                "DepthMuP gives embedding and output map different variances and learning rates: they cannot be one "
                "matrix. Build the model with tie_word_embeddings=False."
            )
        nn.init.normal_(model.embed_tokens.weight)
        nn.init.normal_(model.lm_head.weight, std=self.base_width**0.5 / width)
        factors = (1.0, self.branch * (self.base_depth / depth) ** 0.5)
        for index in range(depth):
            set_residual(model, index, factors, factors)
            for linear in (attention_maps(model, index) | ffn_maps(model, index)).values():
                draw(linear, 1 / linear.in_features)

    def learning_rates(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        model = reference(model, "DepthMuP")
        by_width = self.base_width / model.config.d_model
        by_depth = (self.base_depth / model.config.num_hidden_layers) ** 0.5
        return groups(
            model,
            lr,
            {
                "embedding": 1.0,
                "hidden": by_width * by_depth,
                "layer_vectors": by_depth,
                "final_vectors": 1.0,
                "readout": by_width,
            },
        )
