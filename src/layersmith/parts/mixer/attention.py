"""Mixers that weigh tokens by scores: softmax attention and what changes its scores, its weights or its pattern."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "coca_attention": Entry(
        "layersmith.mixer.coca_attention:CoCAAttention",
        "mixer",
        ("2309.08646",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
    ),
    "combiner": Entry(
        "layersmith.mixer.combiner:Combiner",
        "mixer",
        ("combiner-full-attention-transformer-sparse",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "span": 8, "rope_theta": 10000.0},
        missing=(
            "the partitions of Combiner-Logsparse and Combiner-Axial, summaries by a learned map, and attention to "
            "spans on both sides"
        ),
    ),
    "doubly_stochastic": Entry(
        "layersmith.mixer.doubly_stochastic:DoublyStochasticAttention",
        "mixer",
        ("2504.16275",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
        missing="the quantum circuit that its paper makes the matrix with",
    ),
    "fit_attention": Entry(
        "layersmith.mixer.fit_attention:FITAttention",
        "mixer",
        ("fit-far-reaching-interleaved-transformers",),
        {"d_model": 32, "n_heads": 4, "group": 8, "latents": 2, "rope_theta": 10000.0},
        missing="latents that go on from layer to layer, and several local and global layers in one block",
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
    "lama": Entry(
        "layersmith.mixer.lama:LAMA",
        "mixer",
        ("low-rank-factorization-compact-multi",),
        {"d_model": 16, "n_heads": 4},
        missing="the recurrent network whose states it pools, and the classifier behind it",
    ),
    "limit_softmax": Entry(
        "layersmith.mixer.limit_softmax:LimitSoftmaxAttention",
        "mixer",
        ("puma-secure-inference-llama-7b",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
        missing="its paper's protocols on secret shares",
    ),
    "linformer": Entry(
        "layersmith.mixer.linformer:Linformer",
        "mixer",
        ("2006.04768",),
        {"d_model": 32, "n_heads": 4, "length": 1024, "rank": 8},
        missing="mixtures that several layers share",
    ),
    "lipschitz_attention": Entry(
        "layersmith.mixer.lipschitz_attention:LipschitzAttention",
        "mixer",
        ("2306.06849",),
        {"d_model": 16, "n_heads": 2},
    ),
    "lsh_attention": Entry(
        "layersmith.mixer.lsh_attention:LSHAttention",
        "mixer",
        ("2001.04451",),
        {"d_model": 32, "n_heads": 4, "buckets": 4, "rounds": 2, "chunk": 16, "rope_theta": 10000.0},
        missing="reversible residual layers and feed-forwards worked off piece by piece",
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
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "gated": True, "residual": True, "rope_theta": 10000.0},
        missing=(
            "the logits that one attention in front of all layers adds to those of each, and the small network that "
            "makes the logits of many heads from those of few"
        ),
    ),
    "pattern_attention": Entry(
        "layersmith.mixer.pattern_attention:PatternAttention",
        "mixer",
        ("1904.10509", "2004.05150", "2309.17453", "efficient-long-range-transformers"),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "size": 24, "first": 4, "rope_theta": 10000.0},
        missing=(
            "Longformer's own maps for global tokens, patterns that differ from head to head, and positions counted "
            "within the cache"
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
    "shortened_attention": Entry(
        "layersmith.mixer.shortened_attention:ShortenedAttention",
        "mixer",
        ("fourier-transformer",),
        {"d_model": 16, "n_heads": 4, "n_kv_heads": 2},
        missing="layers that stay short: the sequence gets its length back behind each mixer",
    ),
    "simplified_attention": Entry(
        "layersmith.mixer.simplified_attention:SimplifiedAttention",
        "mixer",
        ("2311.01906", "2306.17759"),
        {"d_model": 32, "n_heads": 4, "rope_theta": 10000.0},
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
    "swin_attention": Entry(
        "layersmith.mixer.swin_attention:SwinAttention",
        "mixer",
        ("swin-transformer",),
        {"d_model": 32, "n_heads": 4, "width": 8, "window": 4, "shifted": True},
        missing="the merging of patches between stages",
    ),
    "tensor_attention": Entry(
        "layersmith.mixer.tensor_attention:TensorAttention",
        "mixer",
        ("capture-higher-order-correlations-generalizing",),
        {"d_model": 16, "n_heads": 4, "n_kv_heads": 2, "degree": 2},
        missing="the bounds on entries under which its paper proves the error of the series",
    ),
    "topk_attention": Entry(
        "layersmith.mixer.topk_attention:TopKAttention",
        "mixer",
        ("iceformer-accelerated-inference-long-sequence", "unlimiformer-long-range-transformers-unlimited"),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "k": 12, "rope_theta": 10000.0},
        missing="an index that finds the keys without computing all scores, and cross-attention",
    ),
    "tova": Entry(
        "layersmith.mixer.tova:TOVA",
        "mixer",
        ("2401.06104",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "keep": 48, "chunk": 8, "rope_theta": 10000.0},
    ),
    "urpe": Entry(
        "layersmith.mixer.urpe:URPEAttention",
        "mixer",
        ("2205.13401",),
        {"d_model": 16, "n_heads": 2, "max_distance": 16, "n_kv_heads": 1},
    ),
}
