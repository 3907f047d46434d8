"""The table of parts: name -> class, family, papers, and a small configuration that the contract suite builds.

Strings only: no part is imported until it is asked for. One line or two for each part, sorted by name in a family.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One part.

    papers   ids of papers.toml
    example  a small config the contract suite builds
    missing  what of its papers is not there, in words that go on after "without"; "" when nothing is
    """

    target: str
    family: str
    papers: tuple[str, ...]
    example: dict[str, Any]
    missing: str = ""


def source(name: str) -> Path:
    """The file that defines a part. Raises `FileNotFoundError` when the table names a module that is not there."""
    spec = importlib.util.find_spec(ENTRIES[name].target.partition(":")[0])
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"The part {name!r} has no source file: {ENTRIES[name].target!r} cannot be found.")
    return Path(spec.origin)


ENTRIES: dict[str, Entry] = {
    # ffn
    "af_kan": Entry("layersmith.ffn.af_kan:AFKAN", "ffn", ("2503.06112",), {"d_model": 32, "d_hidden": 64}),
    "affine": Entry("layersmith.ffn.affine:Affine", "ffn", (), {"d_model": 32}),
    "bilinear": Entry("layersmith.ffn.bilinear:Bilinear", "ffn", ("2305.03452",), {"d_model": 32, "d_hidden": 64}),
    "carved_moe": Entry(
        "layersmith.ffn.carved_moe:CarvedMoE",
        "ffn",
        ("2502.04416",),
        {"d_model": 32, "d_expert": 8, "n_shared": 2, "n_routed": 6, "k": 2},
    ),
    "cascaded_ffn": Entry(
        "layersmith.ffn.cascaded_ffn:CascadedFFN", "ffn", ("2511.14111",), {"d_model": 32, "d_hidden": 64}
    ),
    "cofrgenet": Entry("layersmith.ffn.cofrgenet:CoFrGeNet", "ffn", ("2601.21766",), {"d_model": 32}),
    "constant": Entry("layersmith.ffn.constant:Constant", "ffn", (), {"d_model": 32}),
    "deep_mlp": Entry("layersmith.ffn.deep_mlp:DeepMLP", "ffn", ("2505.06633",), {"d_model": 32, "d_hidden": 64}),
    "fff": Entry("layersmith.ffn.fff:FFF", "ffn", ("2311.10770",), {"d_model": 32, "depth": 3, "n_trees": 2}),
    "fff_leaves": Entry(
        "layersmith.ffn.fff_leaves:FFFLeaves", "ffn", ("2405.16836",), {"d_model": 32, "depth": 2, "d_leaf": 8}
    ),
    "fused_glu": Entry("layersmith.ffn.fused_glu:FusedGLU", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "glu": Entry("layersmith.ffn.glu:GLU", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "gr_kan": Entry(
        "layersmith.ffn.gr_kan:GRKAN", "ffn", ("2409.10594", "2505.13813"), {"d_model": 32, "d_hidden": 64}
    ),
    "hourglass": Entry(
        "layersmith.ffn.hourglass:Hourglass", "ffn", ("2602.06471",), {"d_model": 32, "d_narrow": 16, "depth": 3}
    ),
    "hqkan": Entry("layersmith.ffn.hqkan:HQKAN", "ffn", ("2509.14026",), {"d_model": 32, "d_bottleneck": 8}),
    "identity": Entry("layersmith.ffn.identity:Identity", "ffn", (), {"d_model": 32}),
    "idle_ffn": Entry(
        "layersmith.ffn.idle_ffn:IdleFFN", "ffn", ("2505.21847",), {"d_model": 32, "d_active": 24, "d_idle": 72}
    ),
    "kan": Entry("layersmith.ffn.kan:KAN", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "lipschitz_ffn": Entry(
        "layersmith.ffn.lipschitz_ffn:LipschitzFFN",
        "ffn",
        ("2301.11526",),
        {"d_model": 32, "d_hidden": 64, "gamma": 2.0},
    ),
    "logic_gates": Entry(
        "layersmith.ffn.logic_gates:LogicGates",
        "ffn",
        ("2509.25933",),
        {"d_model": 32, "d_hidden": 128, "thresholds": 4},
    ),
    "low_rank_affine": Entry("layersmith.ffn.low_rank_affine:LowRankAffine", "ffn", (), {"d_model": 32, "rank": 8}),
    "memory_former": Entry(
        "layersmith.ffn.memory_former:MemoryFormer", "ffn", ("2411.12992",), {"d_model": 32, "bits": 4, "extra_bits": 1}
    ),
    "mglu": Entry("layersmith.ffn.mglu:MGLU", "ffn", ("2506.23225",), {"d_model": 32, "d_hidden": 64, "n_masks": 2}),
    "mlp": Entry("layersmith.ffn.mlp:MLP", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "pattention": Entry(
        "layersmith.ffn.pattention:Pattention",
        "ffn",
        ("2410.23168",),
        {"d_model": 32, "n_tokens": 64},
        missing="parameter tokens in place of the attention's own maps: only a feed-forward is built this way",
    ),
    "peer": Entry(
        "layersmith.ffn.peer:PEER",
        "ffn",
        ("2407.04153",),
        {"d_model": 32, "n_keys": 8, "heads": 2, "k": 4, "d_key": 16},
    ),
    "pkm": Entry(
        "layersmith.ffn.pkm:PKM",
        "ffn",
        ("1907.05242", "2310.10837"),
        {"d_model": 32, "n_keys": 8, "heads": 2, "k": 4, "d_key": 16},
    ),
    "poly_norm": Entry("layersmith.ffn.poly_norm:PolyNorm", "ffn", ("2411.03884",), {"d_model": 32, "d_hidden": 64}),
    "poly_relu": Entry("layersmith.ffn.poly_relu:PolyReLU", "ffn", ("2411.03884",), {"d_model": 32, "d_hidden": 64}),
    "select_kan": Entry(
        "layersmith.ffn.select_kan:SelectKAN", "ffn", ("2408.08338",), {"d_model": 32, "d_hidden": 64, "size": 4}
    ),
    "shaped_mlp": Entry("layersmith.ffn.shaped_mlp:ShapedMLP", "ffn", ("2306.17759",), {"d_model": 32, "d_hidden": 64}),
    "sigma_moe": Entry(
        "layersmith.ffn.sigma_moe:SigmaMoE",
        "ffn",
        ("2310.10837",),
        {"d_model": 32, "d_expert": 16, "n_experts": 6, "k": 2},
    ),
    "smart_mixed": Entry(
        "layersmith.ffn.smart_mixed:SmartMixed", "ffn", ("2510.22450",), {"d_model": 32, "d_hidden": 64}
    ),
    "snnk": Entry(
        "layersmith.ffn.snnk:SNNK",
        "ffn",
        ("scalable-neural-network-kernels",),
        {"d_model": 32, "n_features": 64},
        missing=(
            "frequencies drawn from the activation's Fourier transform, the free parameter M, and features of "
            "the trained weights, for which one fitted matrix stands"
        ),
    ),
    "spark_ffn": Entry(
        "layersmith.ffn.spark_ffn:SparkFFN",
        "ffn",
        ("2506.06644",),
        {"d_model": 32, "d_hidden": 64, "k": 16, "r": 16},
        missing="its paper's sparse attention, in which a query reads its best keys only",
    ),
    "sparse_dictionary": Entry(
        "layersmith.ffn.sparse_dictionary:SparseDictionary",
        "ffn",
        ("2406.11944",),
        {"d_model": 32, "d_features": 64, "k": 8},
    ),
    "sparse_vq": Entry(
        "layersmith.ffn.sparse_vq:SparseVQ", "ffn", ("2402.05830",), {"d_model": 32, "codes": 12, "heads": 2}
    ),
    "structured": Entry(
        "layersmith.ffn.structured:StructuredFFN",
        "ffn",
        ("2406.16450",),
        {"d_model": 32, "d_hidden": 64, "structure": "block_dense", "rank": 16, "blocks": 4},
    ),
    "switch_moe": Entry(
        "layersmith.ffn.switch_moe:SwitchMoE", "ffn", ("2101.03961",), {"d_model": 32, "d_expert": 16, "n_experts": 4}
    ),
    "topk_glu": Entry(
        "layersmith.ffn.topk_glu:TopKGLU", "ffn", ("2511.09323", "2210.06313"), {"d_model": 32, "d_hidden": 64, "k": 16}
    ),
    "topk_mlp": Entry(
        "layersmith.ffn.topk_mlp:TopKMLP", "ffn", ("2210.06313",), {"d_model": 32, "d_hidden": 64, "k": 16}
    ),
    "topk_moe": Entry(
        "layersmith.ffn.topk_moe:TopKMoE", "ffn", (), {"d_model": 32, "d_expert": 16, "n_experts": 6, "k": 2}
    ),
    "tru_kan": Entry("layersmith.ffn.tru_kan:TruKAN", "ffn", ("2602.03879",), {"d_model": 32, "d_hidden": 64}),
    "ugmm": Entry("layersmith.ffn.ugmm:UGMM", "ffn", ("2509.07569",), {"d_model": 32, "d_hidden": 16}),
    "ultra_mem": Entry(
        "layersmith.ffn.ultra_mem:UltraMem",
        "ffn",
        ("2411.12364",),
        {"d_model": 32, "n_keys": 8, "k": 4, "d_key": 8, "expansion": 4},
    ),
    "zero": Entry("layersmith.ffn.zero:Zero", "ffn", (), {"d_model": 32}),
    # mixer
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
    # linear
    "bf16": Entry(
        "layersmith.linear.half_precision:HalfPrecision", "linear", (), {"d_in": 32, "d_out": 48, "bias": True}
    ),
    "block_dense": Entry(
        "layersmith.linear.block_dense:BlockDense",
        "linear",
        ("2406.16450",),
        {"d_in": 32, "d_out": 48, "rank": 16, "blocks": 4},
    ),
    "block_shuffle": Entry(
        "layersmith.linear.block_shuffle:BlockShuffle",
        "linear",
        ("2406.16450",),
        {"d_in": 32, "d_out": 48, "blocks": 4},
    ),
    "butterfly": Entry("layersmith.linear.butterfly:Butterfly", "linear", ("1903.05895",), {"d_in": 32, "d_out": 48}),
    "int8_dynamic": Entry(
        "layersmith.linear.int8_dynamic:Int8Dynamic",
        "linear",
        ("2208.07339",),
        {"d_in": 32, "d_out": 48, "bias": True},
        missing="the columns of outliers that stay in half precision",
    ),
    "linear": Entry("layersmith.linear.dense:Dense", "linear", (), {"d_in": 32, "d_out": 48}),
    "low_rank": Entry(
        "layersmith.linear.low_rank:LowRank", "linear", ("2406.16450",), {"d_in": 32, "d_out": 48, "rank": 8}
    ),
    "memory_linear": Entry(
        "layersmith.linear.memory_linear:MemoryLinear", "linear", ("2411.12992",), {"d_in": 32, "d_out": 48, "bits": 4}
    ),
    "quantized": Entry(
        "layersmith.linear.quantized:QuantizedLinear",
        "linear",
        ("2210.17323",),
        {"d_in": 32, "d_out": 48, "bits": 3, "group_size": 16, "bias": True},
    ),
    # norm
    "crms_norm": Entry(
        "layersmith.norm.crms_norm:CRMSNorm",
        "norm",
        ("2305.14858",),
        {"d_model": 32},
        missing="the conversion of a whole model to a stream that is one channel narrower",
    ),
    "dyt": Entry("layersmith.norm.dyt:DyT", "norm", ("2503.10622",), {"d_model": 32}),
    "layer_norm": Entry("layersmith.norm.layer_norm:LayerNorm", "norm", (), {"d_model": 32}),
    "prep_bn": Entry(
        "layersmith.norm.prep_bn:PRepBN",
        "norm",
        ("2405.11582",),
        {"d_model": 32, "steps": 4},
        missing=("the simplified linear attention that its paper pairs it with, and the warm-up before its schedule"),
    ),
    "rms_norm": Entry("layersmith.norm.rms_norm:RMSNorm", "norm", (), {"d_model": 32}),
    # scheme
    "deep_scale_lm": Entry(
        "layersmith.scheme.deep_scale_lm:DeepScaleLM", "scheme", ("2403.09635",), {"correlation": 0.221}
    ),
    "depth_mup": Entry("layersmith.scheme.depth_mup:DepthMuP", "scheme", ("2310.02244",), {"base_width": 64}),
    "edge_of_chaos": Entry("layersmith.scheme.edge_of_chaos:EdgeOfChaos", "scheme", ("1902.06853",), {"bias": 0.2}),
    "norm_place": Entry("layersmith.scheme.norm_place:NormPlace", "scheme", ("2002.04745",), {"place": "post"}),
    "shaped": Entry("layersmith.scheme.shaped:Shaped", "scheme", ("2306.17759",), {"gamma": 0.3}),
    "sub_ln": Entry("layersmith.scheme.sub_ln:SubLN", "scheme", ("2210.06423",), {"norm": "layer_norm"}),
    "width_scaling": Entry(
        "layersmith.scheme.width_scaling:WidthScaling",
        "scheme",
        ("2304.02034",),
        {"base_width": 64},
        missing=(
            "the paper's exact factors, which are derived here from its conditions and not confirmed against its text"
        ),
    ),
}
