"""The mixers of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "deltanet": Entry("layersmith.mixer.deltanet:DeltaNet", "mixer", ("2406.06484",), {"d_model": 32, "n_heads": 4}),
    "expert_choice_moe": Entry(
        "layersmith.mixer.expert_choice_moe:ExpertChoiceMoE",
        "mixer",
        (),
        {"d_model": 32, "d_expert": 16, "n_experts": 4, "factor": 1.0},
    ),
    "fused_attention": Entry(
        "layersmith.mixer.fused_attention:FusedAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0, "qk_norm": True},
    ),
    "gated_deltanet": Entry(
        "layersmith.mixer.gated_deltanet:GatedDeltaNet",
        "mixer",
        ("2412.06464",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2},
    ),
    "gla": Entry("layersmith.mixer.gla:GLA", "mixer", ("2312.06635",), {"d_model": 32, "n_heads": 4, "n_kv_heads": 2}),
    "linear_attention": Entry(
        "layersmith.mixer.linear_attention:LinearAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "feature_map": "hedgehog", "rope_theta": 10000.0},
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
    "retnet": Entry("layersmith.mixer.retnet:RetNet", "mixer", ("2307.08621",), {"d_model": 32, "n_heads": 4}),
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
}
