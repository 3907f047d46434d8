"""Mixers that carry a state: linear recurrences, state spaces, and filters over the last tokens."""

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
    "deltanet": Entry("layersmith.mixer.deltanet:DeltaNet", "mixer", ("2406.06484",), {"d_model": 32, "n_heads": 4}),
    "dfsmn": Entry(
        "layersmith.mixer.dfsmn:DFSMN",
        "mixer",
        ("deep-fsmn-large-vocabulary-continuous",),
        {"d_model": 32, "d_hidden": 48, "behind": 5, "stride": 2},
    ),
    "exponential_smoothing": Entry(
        "layersmith.mixer.exponential_smoothing:ExponentialSmoothing",
        "mixer",
        ("etsformer-exponential-smoothing-transformers-time",),
        {"d_model": 32, "n_heads": 4},
        missing="the paper's level, smoothed against season and growth, and the growth that fades in its forecast",
    ),
    "flow_rnn": Entry(
        "layersmith.mixer.flow_rnn:FlowRNN",
        "mixer",
        ("flow-equivariant-recurrent-neural-networks",),
        {"d_model": 16, "d_hidden": 3, "channels": 2, "velocities": 2},
        missing="flows in two dimensions, rotations among them",
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
    "gla": Entry("layersmith.mixer.gla:GLA", "mixer", ("2312.06635",), {"d_model": 32, "n_heads": 4, "n_kv_heads": 2}),
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
        missing=(
            "the class token that nothing fades at, the second walk through the patches of an image, and the layer "
            "norm that its language models have in place of feature map and normaliser"
        ),
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
    "mesa": Entry(
        "layersmith.mixer.mesa:Mesa",
        "mixer",
        ("uncovering-mesa-optimization-algorithms-transformers",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0, "learn_lam": True},
    ),
    "mlstm": Entry(
        "layersmith.mixer.mlstm:MLSTM",
        "mixer",
        ("2405.04517",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2},
        missing="the short convolution and the wider inner stream that its block of 2024 has around it",
    ),
    "qkan_lstm": Entry(
        "layersmith.mixer.qkan_lstm:QKANLSTM",
        "mixer",
        ("qkan-lstm",),
        {"d_model": 16, "d_hidden": 12},
        missing="the variant whose gates are narrow networks of circuits",
    ),
    "quixer": Entry(
        "layersmith.mixer.quixer:Quixer",
        "mixer",
        ("quixer-quantum-transformer-model",),
        {"d_model": 16, "qubits": 3, "window": 4, "degree": 2},
    ),
    "recurrent_logic": Entry(
        "layersmith.mixer.recurrent_logic:RecurrentLogic",
        "mixer",
        ("recurrent-deep-differentiable-logic-gate",),
        {"d_model": 8, "neurons": 3, "layers": 2},
        missing="its paper's encoder and decoder, each with layers of gates before and behind the recurrent ones",
    ),
    "retnet": Entry("layersmith.mixer.retnet:RetNet", "mixer", ("2307.08621",), {"d_model": 32, "n_heads": 4}),
    "s4d": Entry("layersmith.mixer.s4d:S4D", "mixer", ("2206.11893",), {"d_model": 16, "d_state": 8}),
    "shift_compare": Entry(
        "layersmith.mixer.shift_compare:ShiftCompare",
        "mixer",
        ("breaking-attention-bottleneck",),
        {"d_model": 32, "d_inner": 24},
        missing="the function that its paper compares by, which its abstract does not give",
    ),
    "sla": Entry(
        "layersmith.mixer.sla:SimplifiedLinearAttention",
        "mixer",
        ("2405.11582",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2},
        missing="the grid of its paper's pictures: the convolution runs over tokens in a line",
    ),
    "slstm": Entry(
        "layersmith.mixer.slstm:SLSTM",
        "mixer",
        ("2405.04517", "xlstmtime-long-term-time-series"),
        {"d_model": 16, "n_heads": 2},
        missing="the short convolution before its gates, and the norm over batches of the forecaster",
    ),
    "toeplitz_attention": Entry(
        "layersmith.mixer.toeplitz_attention:ToeplitzAttention",
        "mixer",
        ("stable-fast-accurate",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "max_distance": 16},
    ),
}
