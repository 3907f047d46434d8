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
    "activator": Entry(
        "layersmith.block.activator:Activator",
        "block",
        ("activator-glu-activations-core-functions",),
        {"d_model": 16, "d_hidden": 24, "ffn": FFN, "norm": NORM},
    ),
    "blockwise": Entry(
        "layersmith.block.blockwise:Blockwise",
        "block",
        ("blockwise-parallel-transformer-long-context",),
        {"d_model": 16, **SOFTMAX, "chunk": 24},
        missing="a loss that is computed blockwise too",
    ),
    "bottleneck": Entry(
        "layersmith.block.bottleneck:Bottleneck",
        "block",
        ("mobilebert-compact-task-agnostic-bert", "towards-smaller-faster-decoder-only"),
        {"d_model": 24, "d_inner": 16, "layers": [SOFTMAX]},
        missing=(
            "NoNorm, stacked feed-forwards and the transfer layer by layer of the first of its papers, and the output "
            "map of the second, which reads the narrow width"
        ),
    ),
    "branches": Entry(
        "layersmith.block.branches:Branches",
        "block",
        ("towards-smaller-faster-decoder-only",),
        {"d_model": 16, "layers": [SOFTMAX], "branches": 2},
    ),
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
    "early_router": Entry(
        "layersmith.block.early_router:EarlyRouter",
        "block",
        ("smallthinker-family-efficient-large-language",),
        {"d_model": 16, "mixer": MIXER, "norm": NORM, "d_expert": 8, "n_experts": 4, "k": 2},
    ),
    "feedback": Entry(
        "layersmith.block.feedback:Feedback",
        "block",
        ("recurrent-feedback-improves-recognition-partially",),
        {"d_model": 16, "layers": [SOFTMAX, LINEAR]},
        missing="its convolutions, and a read-out at every time",
    ),
    "halting": Entry(
        "layersmith.block.halting:Halting",
        "block",
        ("sparse-universal-transformer",),
        {"d_model": 16, "layers": [SOFTMAX], "times": 3, "threshold": 0.9},
        missing="queries from a stream of their own, mixtures of attention heads, and work saved on halted tokens",
    ),
    "head_memory": Entry(
        "layersmith.block.head_memory:HeadMemory",
        "block",
        ("midus-memory-infused-depth-up",),
        {"d_model": 16, "mixer": MIXER, "norm": NORM, "n_keys": 4, "heads": 2, "k": 3, "d_value": 8},
        missing="the copying of trained layers around it",
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
        {"d_model": 16, "layer": SOFTMAX, "depth": 2},
        missing="the distillation of its first stage",
    ),
    "looped": Entry(
        "layersmith.block.looped:Looped",
        "block",
        (
            "looped-transformers-better-learning-learning",
            "expressive-power-variant-looped-transformer",
            "subformer-exploring-weight-sharing-parameter",
            "moeut-mixture-experts-universal-transformers",
        ),
        {"d_model": 16, "layers": [SOFTMAX], "times": 2, "inject": True},
        missing=(
            "the loss over the last turns and the curricula of the first of its papers, the factorised embedding of "
            "the third, and of the fourth attention with experts, norms that routers, queries and keys alone read, and "
            "the routers' entropy over all turns of one text"
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
        missing="the learned scale of each channel of the second of its papers",
    ),
    "shared_scores": Entry(
        "layersmith.block.shared_scores:SharedScores",
        "block",
        ("efficientasr-speech-recognition-network-compression",),
        {"d_model": 16, "n_heads": 4, "n_kv_heads": 2, "ffn": FFN, "norm": NORM, "rope_theta": 10000.0},
        missing="feed-forwards on chunks of the channels",
    ),
    "side_by_side": Entry(
        "layersmith.block.side_by_side:SideBySide",
        "block",
        ("heterogeneous-encoders-scaling-transformer-neural",),
        {"d_model": 16, "layers": [SOFTMAX, LINEAR], "mean": True},
        missing="the rule by which its paper chooses encoders",
    ),
    "simplified": Entry(
        "layersmith.block.simplified:Simplified",
        "block",
        ("2311.01906",),
        {"d_model": 16, **PARTS, "mixer": {"name": "simplified_attention", "n_heads": 2, "rope_theta": 10000.0}},
        missing="the block of its paper that is no parallel one",
    ),
    "skip_middle": Entry(
        "layersmith.block.skip_middle:SkipMiddle",
        "block",
        ("2506.21103",),
        {"d_model": 16, "layers": [SOFTMAX, LINEAR]},
        missing="soft gates on keys and the controller of the penalty",
    ),
    "subhomogeneous": Entry(
        "layersmith.block.subhomogeneous:Subhomogeneous",
        "block",
        ("subhomogeneous-deep-equilibrium-models",),
        {"d_model": 16, "d_state": 24},
    ),
    "ts_mixer": Entry(
        "layersmith.block.ts_mixer:TSMixer",
        "block",
        ("tsmixer-lightweight-mlp-mixer-model",),
        {"d_model": 8, "length": 1000, "expansion": 1, "norm": {"name": "layer_norm"}},
        missing="the mixing between series and the reconciliation of forecasts",
    ),
}
