"""The blocks of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

NORM = {"name": "rms_norm"}
MIXER = {"name": "softmax_attention", "n_heads": 2, "rope_theta": 10000.0}
FFN = {"name": "glu", "d_hidden": 24}
#: Sublayers of the examples, and layers of the examples that hold layers.
PARTS = {"norm": NORM, "mixer": MIXER, "ffn": FFN}
SOFTMAX = {**PARTS, "ffn_norm": NORM}
LINEAR = {**SOFTMAX, "mixer": {"name": "linear_attention", "n_heads": 2, "rope_theta": 10000.0}}

ENTRIES: dict[str, Entry] = {
    "deq": Entry(
        "layersmith.block.deq:DEQ",
        "block",
        ("deep-equilibrium-models", "neural-integral-equations"),
        {"d_model": 16, "layers": [LINEAR], "norm": NORM, "steps": 16, "tolerance": 0.0},
        missing=(
            "the input inside queries, keys and values and Broyden's method of the first of its papers, and quadrature "
            "over points other than tokens of the second"
        ),
    ),
    "halting": Entry(
        "layersmith.block.halting:Halting",
        "block",
        ("sparse-universal-transformer",),
        {"d_model": 16, "layers": [SOFTMAX], "times": 3, "threshold": 0.9},
        missing="queries from a stream of their own, mixtures of attention heads, and work saved on halted tokens",
    ),
    "layer_mix": Entry(
        "layersmith.block.layer_mix:LayerMix",
        "block",
        ("layers-equally-important",),
        {"d_model": 16, "layers": [{**SOFTMAX, "residual": {"mixer": [0, 1], "ffn": [1, 1]}}, LINEAR]},
    ),
    "learngene": Entry(
        "layersmith.block.learngene:Learngene",
        "block",
        ("transformer-linear-expansion-learngene",),
        {"d_model": 16, "layer": SOFTMAX, "depth": 3},
        missing="the distillation of its first stage",
    ),
    "looped": Entry(
        "layersmith.block.looped:Looped",
        "block",
        (
            "looped-transformers-better-learning-learning",
            "expressive-power-variant-looped-transformer",
            "subformer-exploring-weight-sharing-parameter",
        ),
        {"d_model": 16, "layers": [SOFTMAX, LINEAR], "times": 2, "inject": True},
        missing=(
            "the loss over the last turns and the curricula of the first of its papers, and the factorised embedding "
            "of the third"
        ),
    ),
    "parallel": Entry(
        "layersmith.block.parallel:Parallel",
        "block",
        ("investigating-role-feed-forward-networks",),
        {"d_model": 16, **PARTS},
    ),
    "series": Entry(
        "layersmith.block.series:Series",
        "block",
        ("1906.02762", "metaformer-actually-you-need-vision"),
        {"d_model": 16, **SOFTMAX, "first": {"norm": NORM, "ffn": FFN}, "residual": {"mixer": [1, 1], "ffn": [1, 0.5]}},
        missing="pooling as a mixer and the learned scale of each channel of the second of its papers",
    ),
    "skip_middle": Entry(
        "layersmith.block.skip_middle:SkipMiddle",
        "block",
        ("2506.21103",),
        {"d_model": 16, "layers": [SOFTMAX, LINEAR, SOFTMAX]},
        missing="soft gates on keys and the controller of the penalty",
    ),
}
