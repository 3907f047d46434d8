"""The mixers of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "combiner": Entry(
        "layersmith.mixer.combiner:Combiner",
        "mixer",
        ("combiner-full-attention-transformer-sparse",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "span": 8, "rope_theta": 10000.0},
        missing="the partitions of Combiner-Logsparse and Combiner-Axial",
    ),
    "deltanet": Entry("layersmith.mixer.deltanet:DeltaNet", "mixer", ("2406.06484",), {"d_model": 32, "n_heads": 4}),
    "expert_choice_moe": Entry(
        "layersmith.mixer.expert_choice_moe:ExpertChoiceMoE",
        "mixer",
        (),
        {"d_model": 32, "d_expert": 16, "n_experts": 4, "factor": 1.0},
    ),
    "fit_attention": Entry(
        "layersmith.mixer.fit_attention:FITAttention",
        "mixer",
        ("fit-far-reaching-interleaved-transformers",),
        {"d_model": 32, "n_heads": 4, "group": 8, "latents": 2, "rope_theta": 10000.0},
        missing="latents that go on from layer to layer, and several local and global layers in one block",
    ),
    "fused_attention": Entry(
        "layersmith.mixer.fused_attention:FusedAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0, "qk_norm": True},
    ),
    "linear_attention": Entry(
        "layersmith.mixer.linear_attention:LinearAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "feature_map": "hedgehog", "rope_theta": 10000.0},
    ),
    "linformer": Entry(
        "layersmith.mixer.linformer:Linformer",
        "mixer",
        ("2006.04768",),
        {"d_model": 32, "n_heads": 4, "length": 1024, "rank": 8},
        missing="mixtures that several layers share",
    ),
    "lsh_attention": Entry(
        "layersmith.mixer.lsh_attention:LSHAttention",
        "mixer",
        ("2001.04451",),
        {"d_model": 32, "n_heads": 4, "buckets": 4, "rounds": 2, "chunk": 16, "rope_theta": 10000.0},
        missing="reversible residual layers and feed-forwards worked off piece by piece",
    ),
    "mesa": Entry(
        "layersmith.mixer.mesa:Mesa",
        "mixer",
        ("uncovering-mesa-optimization-algorithms-transformers",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0},
        missing="the forgetting factor and the learned penalty of its paper",
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
    "swin_attention": Entry(
        "layersmith.mixer.swin_attention:SwinAttention",
        "mixer",
        ("swin-transformer",),
        {"d_model": 32, "n_heads": 4, "width": 8, "window": 4, "shifted": True},
        missing="the merging of patches between stages",
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
}
