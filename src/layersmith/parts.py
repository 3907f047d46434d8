"""The table of parts: name -> class, family, papers, and a small configuration that the contract suite builds.

Strings only: nothing is imported until a part is asked for. One line or two for each part, sorted by name in a family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One part. `papers` are ids of papers.toml; `example` is a small config the contract suite builds."""

    target: str
    family: str
    papers: tuple[str, ...]
    example: dict[str, Any]


ENTRIES: dict[str, Entry] = {
    # ffn
    "af_kan": Entry("layersmith.ffn.af_kan:AFKAN", "ffn", ("P076",), {"d_model": 32, "d_hidden": 64}),
    "affine": Entry("layersmith.ffn.affine:Affine", "ffn", (), {"d_model": 32}),
    "bilinear": Entry("layersmith.ffn.bilinear:Bilinear", "ffn", ("P219",), {"d_model": 32, "d_hidden": 64}),
    "carved_moe": Entry(
        "layersmith.ffn.carved_moe:CarvedMoE",
        "ffn",
        ("P354",),
        {"d_model": 32, "d_expert": 8, "n_shared": 2, "n_routed": 6, "k": 2},
    ),
    "cascaded_ffn": Entry("layersmith.ffn.cascaded_ffn:CascadedFFN", "ffn", ("P350",), {"d_model": 32, "d_hidden": 64}),
    "cofrgenet": Entry("layersmith.ffn.cofrgenet:CoFrGeNet", "ffn", ("P009",), {"d_model": 32}),
    "constant": Entry("layersmith.ffn.constant:Constant", "ffn", (), {"d_model": 32}),
    "deep_mlp": Entry("layersmith.ffn.deep_mlp:DeepMLP", "ffn", ("P292",), {"d_model": 32, "d_hidden": 64}),
    "fff": Entry("layersmith.ffn.fff:FFF", "ffn", ("P297",), {"d_model": 32, "depth": 3, "n_trees": 2}),
    "fff_leaves": Entry(
        "layersmith.ffn.fff_leaves:FFFLeaves", "ffn", ("P293",), {"d_model": 32, "depth": 2, "d_leaf": 8}
    ),
    "glu": Entry("layersmith.ffn.glu:GLU", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "gr_kan": Entry("layersmith.ffn.gr_kan:GRKAN", "ffn", ("P034", "P046"), {"d_model": 32, "d_hidden": 64}),
    "hourglass": Entry(
        "layersmith.ffn.hourglass:Hourglass", "ffn", ("P048",), {"d_model": 32, "d_narrow": 16, "depth": 3}
    ),
    "hqkan": Entry("layersmith.ffn.hqkan:HQKAN", "ffn", ("P086",), {"d_model": 32, "d_bottleneck": 8}),
    "identity": Entry("layersmith.ffn.identity:Identity", "ffn", (), {"d_model": 32}),
    "idle_ffn": Entry(
        "layersmith.ffn.idle_ffn:IdleFFN", "ffn", ("P343",), {"d_model": 32, "d_active": 24, "d_idle": 72}
    ),
    "kan": Entry("layersmith.ffn.kan:KAN", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "lipschitz_ffn": Entry(
        "layersmith.ffn.lipschitz_ffn:LipschitzFFN", "ffn", ("P296",), {"d_model": 32, "d_hidden": 64, "gamma": 2.0}
    ),
    "logic_gates": Entry(
        "layersmith.ffn.logic_gates:LogicGates", "ffn", ("P348",), {"d_model": 32, "d_hidden": 128, "thresholds": 4}
    ),
    "low_rank_affine": Entry("layersmith.ffn.low_rank_affine:LowRankAffine", "ffn", (), {"d_model": 32, "rank": 8}),
    "memory_former": Entry(
        "layersmith.ffn.memory_former:MemoryFormer", "ffn", ("P024",), {"d_model": 32, "bits": 4, "extra_bits": 1}
    ),
    "mglu": Entry("layersmith.ffn.mglu:MGLU", "ffn", ("P358",), {"d_model": 32, "d_hidden": 64, "n_masks": 2}),
    "mlp": Entry("layersmith.ffn.mlp:MLP", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "pattention": Entry("layersmith.ffn.pattention:Pattention", "ffn", ("P284",), {"d_model": 32, "n_tokens": 64}),
    "peer": Entry(
        "layersmith.ffn.peer:PEER",
        "ffn",
        ("P270",),
        {"d_model": 32, "n_keys": 8, "heads": 2, "k": 4, "d_key": 16},
    ),
    "pkm": Entry(
        "layersmith.ffn.pkm:PKM",
        "ffn",
        ("P291",),
        {"d_model": 32, "n_keys": 8, "heads": 2, "k": 4, "d_key": 16},
    ),
    "poly_norm": Entry("layersmith.ffn.poly_norm:PolyNorm", "ffn", ("P007",), {"d_model": 32, "d_hidden": 64}),
    "poly_relu": Entry("layersmith.ffn.poly_relu:PolyReLU", "ffn", ("P007",), {"d_model": 32, "d_hidden": 64}),
    "select_kan": Entry(
        "layersmith.ffn.select_kan:SelectKAN", "ffn", ("P075",), {"d_model": 32, "d_hidden": 64, "size": 4}
    ),
    "shaped_mlp": Entry("layersmith.ffn.shaped_mlp:ShapedMLP", "ffn", ("P242",), {"d_model": 32, "d_hidden": 64}),
    "sigma_moe": Entry(
        "layersmith.ffn.sigma_moe:SigmaMoE",
        "ffn",
        ("P291",),
        {"d_model": 32, "d_expert": 16, "n_experts": 6, "k": 2},
    ),
    "smart_mixed": Entry("layersmith.ffn.smart_mixed:SmartMixed", "ffn", ("P318",), {"d_model": 32, "d_hidden": 64}),
    "snnk": Entry("layersmith.ffn.snnk:SNNK", "ffn", ("P089",), {"d_model": 32, "n_features": 64}),
    "spark_ffn": Entry(
        "layersmith.ffn.spark_ffn:SparkFFN", "ffn", ("P361",), {"d_model": 32, "d_hidden": 64, "k": 16, "r": 16}
    ),
    "sparse_vq": Entry("layersmith.ffn.sparse_vq:SparseVQ", "ffn", ("P182",), {"d_model": 32, "codes": 12, "heads": 2}),
    "structured": Entry(
        "layersmith.ffn.structured:StructuredFFN",
        "ffn",
        ("P294",),
        {"d_model": 32, "d_hidden": 64, "structure": "block_dense", "rank": 16, "blocks": 4},
    ),
    "switch_moe": Entry(
        "layersmith.ffn.switch_moe:SwitchMoE", "ffn", ("P222",), {"d_model": 32, "d_expert": 16, "n_experts": 4}
    ),
    "topk_glu": Entry(
        "layersmith.ffn.topk_glu:TopKGLU", "ffn", ("P382", "P020"), {"d_model": 32, "d_hidden": 64, "k": 16}
    ),
    "topk_mlp": Entry("layersmith.ffn.topk_mlp:TopKMLP", "ffn", ("P020",), {"d_model": 32, "d_hidden": 64, "k": 16}),
    "topk_moe": Entry(
        "layersmith.ffn.topk_moe:TopKMoE", "ffn", (), {"d_model": 32, "d_expert": 16, "n_experts": 6, "k": 2}
    ),
    "tru_kan": Entry("layersmith.ffn.tru_kan:TruKAN", "ffn", ("P079",), {"d_model": 32, "d_hidden": 64}),
    "ugmm": Entry("layersmith.ffn.ugmm:UGMM", "ffn", ("P315",), {"d_model": 32, "d_hidden": 16}),
    "ultra_mem": Entry(
        "layersmith.ffn.ultra_mem:UltraMem",
        "ffn",
        ("P119",),
        {"d_model": 32, "n_keys": 8, "k": 4, "d_key": 8, "expansion": 4},
    ),
    "zero": Entry("layersmith.ffn.zero:Zero", "ffn", (), {"d_model": 32}),
    # mixer
    "deltanet": Entry("layersmith.mixer.deltanet:DeltaNet", "mixer", ("P028",), {"d_model": 32, "n_heads": 4}),
    "expert_choice_moe": Entry(
        "layersmith.mixer.expert_choice_moe:ExpertChoiceMoE",
        "mixer",
        (),
        {"d_model": 32, "d_expert": 16, "n_experts": 4, "factor": 1.0},
    ),
    "linear_attention": Entry(
        "layersmith.mixer.linear_attention:LinearAttention",
        "mixer",
        (),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "feature_map": "hedgehog", "rope_theta": 10000.0},
    ),
    "partial_attention": Entry(
        "layersmith.mixer.partial:PartialAttention",
        "mixer",
        ("P289",),
        {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "gated": True, "rope_theta": 10000.0},
    ),
    "shaped_attention": Entry(
        "layersmith.mixer.shaped_attention:ShapedAttention", "mixer", ("P242",), {"d_model": 32, "n_heads": 4}
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
    # linear
    "block_dense": Entry(
        "layersmith.linear.block_dense:BlockDense",
        "linear",
        ("P294",),
        {"d_in": 32, "d_out": 48, "rank": 16, "blocks": 4},
    ),
    "block_shuffle": Entry(
        "layersmith.linear.block_shuffle:BlockShuffle",
        "linear",
        ("P294",),
        {"d_in": 32, "d_out": 48, "blocks": 4},
    ),
    "butterfly": Entry("layersmith.linear.butterfly:Butterfly", "linear", ("P084",), {"d_in": 32, "d_out": 48}),
    "linear": Entry("layersmith.linear.dense:Dense", "linear", (), {"d_in": 32, "d_out": 48}),
    "low_rank": Entry("layersmith.linear.low_rank:LowRank", "linear", ("P294",), {"d_in": 32, "d_out": 48, "rank": 8}),
    "memory_linear": Entry(
        "layersmith.linear.memory_linear:MemoryLinear", "linear", ("P024",), {"d_in": 32, "d_out": 48, "bits": 4}
    ),
    "quantized": Entry(
        "layersmith.linear.quantized:QuantizedLinear",
        "linear",
        ("P220",),
        {"d_in": 32, "d_out": 48, "bits": 3, "group_size": 16, "bias": True},
    ),
    # norm
    "crms_norm": Entry("layersmith.norm.crms_norm:CRMSNorm", "norm", ("P167",), {"d_model": 32}),
    "dyt": Entry("layersmith.norm.dyt:DyT", "norm", ("P155",), {"d_model": 32}),
    "layer_norm": Entry("layersmith.norm.layer_norm:LayerNorm", "norm", (), {"d_model": 32}),
    "prep_bn": Entry("layersmith.norm.prep_bn:PRepBN", "norm", ("P053",), {"d_model": 32, "steps": 4}),
    "rms_norm": Entry("layersmith.norm.rms_norm:RMSNorm", "norm", (), {"d_model": 32}),
    # scheme
    "deep_scale_lm": Entry("layersmith.scheme.deep_scale_lm:DeepScaleLM", "scheme", ("P142",), {"correlation": 0.221}),
    "depth_mup": Entry("layersmith.scheme.depth_mup:DepthMuP", "scheme", ("P181",), {"base_width": 64}),
    "edge_of_chaos": Entry("layersmith.scheme.edge_of_chaos:EdgeOfChaos", "scheme", ("P321",), {"bias": 0.2}),
    "norm_place": Entry("layersmith.scheme.norm_place:NormPlace", "scheme", ("P180",), {"place": "post"}),
    "shaped": Entry("layersmith.scheme.shaped:Shaped", "scheme", ("P242",), {"gamma": 0.3}),
    "sub_ln": Entry("layersmith.scheme.sub_ln:SubLN", "scheme", ("P208",), {"norm": "layer_norm"}),
    "width_scaling": Entry("layersmith.scheme.width_scaling:WidthScaling", "scheme", ("P144",), {"base_width": 64}),
}
