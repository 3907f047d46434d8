"""The mixers of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "coca_attention": Entry(
        "layersmith.mixer.coca_attention:CoCAAttention",
        "mixer",
        ("2309.08646",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
    ),
    "deltanet": Entry("layersmith.mixer.deltanet:DeltaNet", "mixer", ("2406.06484",), {"d_model": 32, "n_heads": 4}),
    "doubly_stochastic": Entry(
        "layersmith.mixer.doubly_stochastic:DoublyStochasticAttention",
        "mixer",
        ("2504.16275",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
        missing="the quantum circuit that its paper makes the matrix with",
    ),
    "expert_choice_moe": Entry(
        "layersmith.mixer.expert_choice_moe:ExpertChoiceMoE",
        "mixer",
        (),
        {"d_model": 32, "d_expert": 16, "n_experts": 4, "factor": 1.0},
    ),
    "folding_attention": Entry(
        "layersmith.mixer.folding_attention:FoldingAttention",
        "mixer",
        ("2309.07988",),
        {"d_model": 16, "n_heads": 2, "fold": 2, "n_kv_heads": 1, "rope_theta": 100.0},
        missing="the folded feed-forward of its paper",
    ),
    "fused_attention": Entry(
        "layersmith.mixer.fused_attention:FusedAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0, "qk_norm": True},
    ),
    "gaussian_attention": Entry(
        "layersmith.mixer.gaussian_attention:GaussianAttention",
        "mixer",
        ("unraveling-gradient-descent-dynamics-transformers",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
    ),
    "gaussian_mask": Entry(
        "layersmith.mixer.gaussian_mask:GaussianMaskAttention",
        "mixer",
        ("2309.05375",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "kernels": 2},
    ),
    "kan_attention": Entry(
        "layersmith.mixer.kan_attention:KANAttention",
        "mixer",
        ("2503.10632",),
        {"d_model": 16, "n_heads": 2, "n_tokens": 1000, "rank": 2, "frequencies": 2, "n_kv_heads": 1},
    ),
    "kv_attention": Entry(
        "layersmith.mixer.kv_attention:KVAttention",
        "mixer",
        ("2305.19129",),
        {"d_model": 16, "n_heads": 2, "d_position": 4},
    ),
    "linear_attention": Entry(
        "layersmith.mixer.linear_attention:LinearAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "feature_map": "hedgehog", "rope_theta": 10000.0},
    ),
    "lipschitz_attention": Entry(
        "layersmith.mixer.lipschitz_attention:LipschitzAttention",
        "mixer",
        ("2306.06849",),
        {"d_model": 16, "n_heads": 2},
        missing="the penalty that its paper trains with",
    ),
    "mesa": Entry(
        "layersmith.mixer.mesa:Mesa",
        "mixer",
        ("uncovering-mesa-optimization-algorithms-transformers",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0},
        missing="the forgetting factor and the learned penalty of its paper",
    ),
    "minimal_attention": Entry(
        "layersmith.mixer.minimal_attention:MinimalAttention",
        "mixer",
        ("2410.13732",),
        {"d_model": 16, "n_heads": 2, "symmetric": True},
    ),
    "momentum_attention": Entry(
        "layersmith.mixer.momentum_attention:MomentumAttention",
        "mixer",
        ("2602.04902",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
    ),
    "neural_attention": Entry(
        "layersmith.mixer.neural_attention:NeuralAttention",
        "mixer",
        ("2502.17206",),
        {"d_model": 16, "n_heads": 2, "d_score": 4, "layers": 2, "n_kv_heads": 1},
    ),
    "partial_attention": Entry(
        "layersmith.mixer.partial:PartialAttention",
        "mixer",
        ("2310.14921",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "gated": True, "rope_theta": 10000.0},
        missing=(
            "the logits that later layers of its paper make from those of the first, and value heads wider "
            "than the query heads"
        ),
    ),
    "power_softmax": Entry(
        "layersmith.mixer.power_softmax:PowerSoftmaxAttention",
        "mixer",
        ("2410.09457",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
        missing="the polynomials that stand for division and norms when the data of its paper are encrypted",
    ),
    "relu_attention": Entry(
        "layersmith.mixer.relu_attention:ReLUAttention",
        "mixer",
        ("2302.06461",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
        missing="the regulariser that its paper trains with",
    ),
    "shaped_attention": Entry(
        "layersmith.mixer.shaped_attention:ShapedAttention", "mixer", ("2306.17759",), {"d_model": 32, "n_heads": 4}
    ),
    "soft_moe": Entry(
        "layersmith.mixer.soft_moe:SoftMoE",
        "mixer",
        (),
        {"d_model": 32, "d_expert": 16, "n_experts": 3, "slots_per_expert": 2},
    ),
    "softmax_attention": Entry(
        "layersmith.mixer.softmax:SoftmaxAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0, "qk_norm": True},
    ),
    "spark_attention": Entry(
        "layersmith.mixer.spark_attention:SparkAttention",
        "mixer",
        ("2506.06644",),
        {"d_model": 16, "n_heads": 2, "k": 8, "r": 4, "rope_theta": 100.0, "rope_fraction": 0.5},
        missing="products for the chosen keys alone, which is what makes its paper's attention fast",
    ),
    "urpe": Entry(
        "layersmith.mixer.urpe:URPEAttention",
        "mixer",
        ("2205.13401",),
        {"d_model": 16, "n_heads": 2, "max_distance": 16, "n_kv_heads": 1},
    ),
}
