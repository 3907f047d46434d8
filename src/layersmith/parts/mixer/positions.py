"""Mixers over positions, frequencies and functions, and those that route tokens to experts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "auto_correlation": Entry(
        "layersmith.mixer.auto_correlation:AutoCorrelation",
        "mixer",
        ("autoformer-decomposition-transformers-auto-correlation",),
        {"d_model": 16, "n_heads": 4, "n_kv_heads": 2},
        missing="the decomposition of its paper into trend and season behind every sublayer",
    ),
    "continuum_attention": Entry(
        "layersmith.mixer.continuum_attention:ContinuumAttention",
        "mixer",
        ("continuum-attention-neural-operators",),
        {"d_model": 16, "n_heads": 4, "n_kv_heads": 2},
        missing="the patches of its paper, restrictions of a function to subdomains lifted by a small neural operator",
    ),
    "dynamic_spectrum": Entry(
        "layersmith.mixer.dynamic_spectrum:DynamicSpectrum",
        "mixer",
        ("dynamic-spectrum-mixer-visual-recognition",),
        {"d_model": 8, "grid": [32, 32], "d_hidden": 8},
    ),
    "expert_choice_moe": Entry(
        "layersmith.mixer.expert_choice_moe:ExpertChoiceMoE",
        "mixer",
        (),
        {"d_model": 32, "d_expert": 16, "n_experts": 4, "factor": 1.0},
    ),
    "factorized_attention": Entry(
        "layersmith.mixer.factorized_attention:FactorizedAttention",
        "mixer",
        ("scalable-transformer-pde-surrogate-modeling", "implicit-factorized-transformer-approach-fast"),
        {"d_model": 8, "n_heads": 2, "grid": [32, 32]},
    ),
    "fnet": Entry(
        "layersmith.mixer.fnet:FNet",
        "mixer",
        (),
        {"d_model": 16},
    ),
    "frequency_attention": Entry(
        "layersmith.mixer.frequency_attention:FrequencyAttention",
        "mixer",
        ("etsformer-exponential-smoothing-transformers-time",),
        {"d_model": 32, "k": 3},
    ),
    "gmlp": Entry(
        "layersmith.mixer.gmlp:GMLP",
        "mixer",
        ("efficient-language-modeling-sparse-mlp",),
        {"d_model": 16, "d_hidden": 8, "length": 1000, "n_experts": 2},
        missing="the routing of its paper by a part of the sequence",
    ),
    "mix_shift": Entry(
        "layersmith.mixer.mix_shift:MixShift",
        "mixer",
        ("mixing-shifting",),
        {"d_model": 8, "grid": [32, 32], "shifts": [-1, 0, 1], "kernels": [1, 3, 5]},
    ),
    "mlp_mixer": Entry(
        "layersmith.mixer.mlp_mixer:MLPMixer",
        "mixer",
        (),
        {"d_model": 16, "token_hidden": 128, "length": 1000},
    ),
    "multi_axis_gmlp": Entry(
        "layersmith.mixer.multi_axis_gmlp:MultiAxisGMLP",
        "mixer",
        ("maxim-multi-axis-mlp-image",),
        {"d_model": 8, "grid": [32, 32], "block": 4},
        missing="cross-gating between two maps, and the U-Net of its paper",
    ),
    "multigrid": Entry(
        "layersmith.mixer.multigrid:Multigrid",
        "mixer",
        ("mgno-efficient-parameterization-linear-operators",),
        {"d_model": 8, "grid": [1000]},
    ),
    "nin_gate": Entry(
        "layersmith.mixer.nin_gate:NiNGate",
        "mixer",
        ("ninformer-network-network-transformer-token",),
        {"d_model": 16, "d_hidden": 16, "token_hidden": 128, "length": 1000},
    ),
    "pool": Entry(
        "layersmith.mixer.pool:Pool",
        "mixer",
        ("metaformer-actually-you-need-vision",),
        {"d_model": 32, "size": 3},
        missing="pooling over both sides of a picture",
    ),
    "pooled_attention": Entry(
        "layersmith.mixer.pooled_attention:PooledAttention",
        "mixer",
        ("pvt-v2",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "pool": 9},
        missing="its patch embedding, and the convolution inside its feed-forward",
    ),
    "raft_mlp": Entry(
        "layersmith.mixer.raft_mlp:RaftMLP",
        "mixer",
        ("raftmlp-much-can-done-without",),
        {"d_model": 8, "grid": [32, 32]},
        missing="resizing of its weights to other grids",
    ),
    "res_mlp": Entry(
        "layersmith.mixer.res_mlp:ResMLP",
        "mixer",
        ("resmlp-feedforward-networks-image-classification",),
        {"d_model": 16, "length": 1000},
    ),
    "soft_moe": Entry(
        "layersmith.mixer.soft_moe:SoftMoE",
        "mixer",
        (),
        {"d_model": 32, "d_expert": 16, "n_experts": 3, "slots_per_expert": 2},
    ),
    "sparse_mlp": Entry(
        "layersmith.mixer.sparse_mlp:SparseMLP",
        "mixer",
        ("cross-token-modeling-conditional-computation",),
        {"d_model": 8, "token_hidden": 16, "length": 1000, "n_experts": 3, "k": 2},
        missing="maps of its paper that change the numbers of tokens and channels between experts",
    ),
    "strip_mlp": Entry(
        "layersmith.mixer.strip_mlp:StripMLP",
        "mixer",
        ("strip-mlp",),
        {"d_model": 8, "grid": [32, 32], "shared": 4},
        missing="the local half of its block",
    ),
    "token_ffn": Entry(
        "layersmith.mixer.token_ffn:TokenFFN",
        "mixer",
        ("rethinking-attention",),
        {"d_model": 8, "d_hidden": 12, "length": 1000},
        missing="one for each head, and one that takes the residual along",
    ),
}
