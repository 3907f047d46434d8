"""DeepScaleLM: residual weights and initial variances that keep every layer's output and gradient at variance one.

    x <- lambda x + beta f(norm(x)),   beta^2 = 2 / N,   lambda^2 = 1 - beta^2          N layers, two sums in each
    FFN (hidden m d, ReLU)             var W_up = var W_down = sqrt(2 / m) / d                 (m = 4: sqrt(1/2) / d)
    attention                          var W_q = var W_k = 1 / d,   var W_v = var W_o = sqrt(1 / r_l) / d
    embedding                          variance 1;                  output map: variance 1 / d

r_l is the correlation of two tokens' inputs to layer l. Attention at the start averages the values of many tokens,
which leaves r_l of their variance, and makes its outputs equal at all tokens; the FFN maps r to relu_correlation(r):

    r <- lambda^2 r + beta^2 * 1,    then    r <- lambda^2 r + beta^2 (r + (sqrt(1 - r^2) - r arccos r) / pi)

Shapes: W (d_out, d_in), biases 0. `correlation` is that of the embeddings, e.g. the chance that two tokens are equal.

Paper: Kedia et al. 2024, "Transformers Get Stable: An End-to-End Signal Propagation Theory for Language Models", arXiv
2403.09635. Confirmed in the authors' code (akhilkedia/TranformersGetStable, megatron/model/utils.py and
transformer.py): all variances, the recursion for r, and that both sums of a layer use the same lambda and beta.
Differs from the paper: no dropout, which the reference model does not have (p = 0 in their formulas); m is free; with
`tokens`, r is replaced by its mean over a causal sequence of that length, r + (1 - r) (1 + .. + 1/T) / T, since early
tokens average few others; the output map's variance is ours.
"""

from __future__ import annotations

import math

from torch import nn

from layersmith.contract import Scheme
from layersmith.errors import UserError
from layersmith.scheme.shared.edits import attention_maps, draw, plain_ffn_maps, reference, set_residual


class DeepScaleLM(Scheme):
    """Unit variance at any depth, forward and backward.

    correlation   of two tokens' embeddings, in (0, 1]; 0.221 is the authors' for BERT's input
    tokens        length of causal sequences whose mean variance is to be one; None = many tokens, as in the paper
    """

    name = "deep_scale_lm"
    expected = {"activation": (0.7, 1.4), "gradient": (0.5, 2.0)}  # noqa: RUF012

    def __init__(self, correlation: float = 0.221, tokens: int | None = None):
        if not 0 < correlation <= 1:
            raise ValueError(f"DeepScaleLM: correlation must be in (0, 1], not {correlation!r}.")
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise ValueError(f"DeepScaleLM: tokens must be a positive integer or None, not {tokens!r}.")
        self.correlation, self.tokens = correlation, tokens

    def apply(self, model: nn.Module) -> None:
        model = reference(model, "DeepScaleLM")
        depth, width = model.config.num_hidden_layers, model.config.d_model
        if model.config.tie_word_embeddings:
            raise UserError(
                "DeepScaleLM gives the embedding variance 1 and the output map variance 1/d: they cannot be one "
                "matrix. Build the model with tie_word_embeddings=False."
            )
        if depth < 2:
            raise UserError(f"DeepScaleLM divides by the depth: beta^2 = 2 / N needs N >= 2 layers, not {depth}.")
        branch = 2 / depth
        factors = (math.sqrt(1 - branch), math.sqrt(branch))
        nn.init.normal_(model.embed_tokens.weight, std=1.0)
        nn.init.normal_(model.lm_head.weight, std=width**-0.5)
        for index, r in enumerate(correlations(self.correlation, depth, self.tokens)):
            set_residual(model, index, factors, factors)
            attention, ffn = attention_maps(model, index), plain_ffn_maps(model, index)
            for name, linear in attention.items():
                qk = name in ("q", "k")
                draw(linear, (1.0 if qk else math.sqrt(1 / attended(r, self.tokens))) / linear.in_features)
            ratio = ffn["up"].out_features / width
            for linear in ffn.values():
                draw(linear, math.sqrt(2 / ratio) / width)


def correlations(start: float, depth: int, tokens: int | None = None) -> list[float]:
    """The correlation of two tokens in the stream that enters each layer."""
    branch = 2 / depth
    r, found = start, []
    for _ in range(depth):
        found.append(r)
        r = (1 - branch) * r + branch * attended_correlation(r, tokens)
        r = (1 - branch) * r + branch * relu_correlation(r)
    return found


def attended(r: float, tokens: int | None = None) -> float:
    """Mean second moment of averages over the first 1, 2, .. tokens of values with second moment 1, correlation r."""
    if tokens is None:
        return r
    return r + (1 - r) * sum(1 / t for t in range(1, tokens + 1)) / tokens


def attended_correlation(r: float, tokens: int | None = None) -> float:
    """Mean correlation of two such averages: E[o_s o_t] = r + (1 - r) / max(s, t), over their mean second moment."""
    if tokens is None or tokens == 1:
        return 1.0
    harmonic = sum(1 / t for t in range(1, tokens + 1))
    return (r + (1 - r) * 2 * (tokens - harmonic) / (tokens * (tokens - 1))) / attended(r, tokens)


def relu_correlation(r: float) -> float:
    """Correlation (not centred) of a ReLU layer's outputs for unit normal inputs of correlation r."""
    r = min(max(r, -1.0), 1.0)
    return r + (math.sqrt(1 - r * r) - r * math.acos(r)) / math.pi
