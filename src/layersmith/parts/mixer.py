"""The mixers of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "aft": Entry("layersmith.mixer.aft:AFT", "mixer", ("attention-free-transformer",), {"d_model": 32, "kind": "conv"}),
    "atlas": Entry(
        "layersmith.mixer.atlas:Atlas",
        "mixer",
        ("atlas-learning-optimally-memorize-context",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "window": 3, "step": 64},
        missing="the memory of two layers, and the exponential features of its paper's DeepTransformers",
    ),
    "bi_rwkv": Entry(
        "layersmith.mixer.bi_rwkv:BiRWKV",
        "mixer",
        ("diffusion-rwkv",),
        {"d_model": 32},
        missing="the shift on a grid and the diffusion model of its paper",
    ),
    "bidirectional_mamba": Entry(
        "layersmith.mixer.bidirectional_mamba:BidirectionalMamba",
        "mixer",
        ("scalable-diffusion-models-state-space",),
        {"d_model": 16, "d_state": 4, "chunk": 8},
        missing="the diffusion model that it is the backbone of",
    ),
    "coca_attention": Entry(
        "layersmith.mixer.coca_attention:CoCAAttention",
        "mixer",
        ("2309.08646",),
        {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0},
    ),
    "deltanet": Entry("layersmith.mixer.deltanet:DeltaNet", "mixer", ("2406.06484",), {"d_model": 32, "n_heads": 4}),
    "dfsmn": Entry(
        "layersmith.mixer.dfsmn:DFSMN",
        "mixer",
        ("deep-fsmn-large-vocabulary-continuous",),
        {"d_model": 32, "d_hidden": 48, "behind": 5, "stride": 2},
    ),
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
    "exponential_smoothing": Entry(
        "layersmith.mixer.exponential_smoothing:ExponentialSmoothing",
        "mixer",
        ("etsformer-exponential-smoothing-transformers-time",),
        {"d_model": 32, "n_heads": 4},
    ),
    "folding_attention": Entry(
        "layersmith.mixer.folding_attention:FoldingAttention",
        "mixer",
        ("2309.07988",),
        {"d_model": 16, "n_heads": 2, "fold": 2, "n_kv_heads": 1, "rope_theta": 100.0},
        missing="the folded feed-forward of its paper",
    ),
    "frequency_attention": Entry(
        "layersmith.mixer.frequency_attention:FrequencyAttention",
        "mixer",
        ("etsformer-exponential-smoothing-transformers-time",),
        {"d_model": 32, "k": 3},
    ),
    "fused_attention": Entry(
        "layersmith.mixer.fused_attention:FusedAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0, "qk_norm": True},
    ),
    "galerkin": Entry(
        "layersmith.mixer.galerkin:GalerkinAttention",
        "mixer",
        ("choose-transformer",),
        {"d_model": 32, "n_heads": 4},
        missing="the coordinates that its paper appends to queries, keys and values, and its start near the identity",
    ),
    "gated_deltanet": Entry(
        "layersmith.mixer.gated_deltanet:GatedDeltaNet",
        "mixer",
        ("2412.06464",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2},
    ),
    "gated_fsmn": Entry(
        "layersmith.mixer.gated_fsmn:GatedFSMN",
        "mixer",
        ("mossformer2-combining-transformer-rnn-free",),
        {"d_model": 16, "d_hidden": 24, "taps": 4, "unit": 3},
        missing="the attention that its layers alternate with, and the norms over whole sequences between filters",
    ),
    "gated_pooling_conv": Entry(
        "layersmith.mixer.gated_pooling_conv:GatedPoolingConv",
        "mixer",
        ("gen-cnn",),
        {"d_model": 16, "d_hidden": 8, "window": 10, "kernel": 3},
        missing="the recursion over the words before its window",
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
    "gla": Entry("layersmith.mixer.gla:GLA", "mixer", ("2312.06635",), {"d_model": 32, "n_heads": 4, "n_kv_heads": 2}),
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
    "learned_delays": Entry(
        "layersmith.mixer.learned_delays:LearnedDelays",
        "mixer",
        ("learning-delays-spiking-neural-networks",),
        {"d_model": 16, "delays": 6},
        missing="its spiking neurons, and a smear that narrows during training",
    ),
    "linear_attention": Entry(
        "layersmith.mixer.linear_attention:LinearAttention",
        "mixer",
        ("devil-linear-transformer", "learning-transformer-kernel"),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "feature_map": "hedgehog", "rope_theta": 10000.0},
        missing=(
            'the block-local attention of early layers in "The Devil in Linear Transformer", and frequencies drawn '
            "anew at every step of training"
        ),
    ),
    "lion": Entry(
        "layersmith.mixer.lion:Lion",
        "mixer",
        ("linear-attention-efficient-bidirectional-sequence",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2},
    ),
    "lipschitz_attention": Entry(
        "layersmith.mixer.lipschitz_attention:LipschitzAttention",
        "mixer",
        ("2306.06849",),
        {"d_model": 16, "n_heads": 2},
        missing="the penalty that its paper trains with",
    ),
    "lmu": Entry(
        "layersmith.mixer.lmu:LMU",
        "mixer",
        ("lmuformer-low-complexity-yet-powerful",),
        {"d_model": 32, "d_memory": 6, "theta": 12.0, "n_memories": 2},
        missing="its patch embedding and its spikes",
    ),
    "mamba": Entry("layersmith.mixer.mamba:Mamba", "mixer", ("2312.00752",), {"d_model": 16, "d_state": 4, "chunk": 8}),
    "mamba2": Entry(
        "layersmith.mixer.mamba2:Mamba2",
        "mixer",
        ("2405.21060",),
        {"d_model": 32, "n_heads": 4, "d_state": 8, "n_groups": 2},
    ),
    "merged_attention": Entry(
        "layersmith.mixer.merged_attention:MergedAttention",
        "mixer",
        ("2410.13732",),
        {"d_model": 16, "n_heads": 2, "symmetric": True},
    ),
    "mesa": Entry(
        "layersmith.mixer.mesa:Mesa",
        "mixer",
        ("uncovering-mesa-optimization-algorithms-transformers",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0, "learn_lam": True},
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
    "pooled_attention": Entry(
        "layersmith.mixer.pooled_attention:PooledAttention",
        "mixer",
        ("pvt-v2",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "pool": 9},
        missing="its patch embedding, and the convolution inside its feed-forward",
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
    "retnet": Entry("layersmith.mixer.retnet:RetNet", "mixer", ("2307.08621",), {"d_model": 32, "n_heads": 4}),
    "s4d": Entry("layersmith.mixer.s4d:S4D", "mixer", ("2206.11893",), {"d_model": 16, "d_state": 8}),
    "shaped_attention": Entry(
        "layersmith.mixer.shaped_attention:ShapedAttention", "mixer", ("2306.17759",), {"d_model": 32, "n_heads": 4}
    ),
    "sla": Entry(
        "layersmith.mixer.sla:SimplifiedLinearAttention",
        "mixer",
        ("2405.11582",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2},
        missing="the grid of its paper's pictures: the convolution runs over tokens in a line",
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
    "toeplitz_attention": Entry(
        "layersmith.mixer.toeplitz_attention:ToeplitzAttention",
        "mixer",
        ("stable-fast-accurate",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "max_distance": 16},
    ),
    "token_ffn": Entry(
        "layersmith.mixer.token_ffn:TokenFFN",
        "mixer",
        ("rethinking-attention",),
        {"d_model": 8, "d_hidden": 12, "length": 1000},
        missing="one for each head, and one that takes the residual along",
    ),
    "urpe": Entry(
        "layersmith.mixer.urpe:URPEAttention",
        "mixer",
        ("2205.13401",),
        {"d_model": 16, "n_heads": 2, "max_distance": 16, "n_kv_heads": 1},
    ),
}
