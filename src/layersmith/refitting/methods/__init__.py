"""The methods, one per file. This table is the only list of them; a class is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from layersmith.errors import UserError, suggest

if TYPE_CHECKING:
    from layersmith.refitting.method import Method

#: The four floors every candidate is measured against. They are candidates like any other, and always built.
FLOORS = {"zero": "drop", "mean": "mean", "ridge_linear": "linear", "rank_r": "rank_r"}

METHODS: dict[str, str] = {
    # Exact: the same function in fewer or faster calls.
    "fused_attention": "layersmith.refitting.methods.replace.fused_attention:FuseAttention",
    "fused_glu": "layersmith.refitting.methods.replace.fused_glu:FuseGLU",
    "fused_norm": "layersmith.refitting.methods.replace.fused_norm:FuseNorm",
    "one_row": "layersmith.refitting.methods.replace.one_row:OneRowHead",
    "drop": "layersmith.refitting.methods.drop.drop:Drop",
    "llm_drop": "layersmith.refitting.methods.drop.llm_drop:LLMDrop",
    "shortgpt": "layersmith.refitting.methods.drop.shortgpt:ShortGPT",
    "mean": "layersmith.refitting.methods.drop.mean:Mean",
    "linear": "layersmith.refitting.methods.fits.linear:LinearMap",
    "rank_r": "layersmith.refitting.methods.fits.rank_r:RankR",
    "width": "layersmith.refitting.methods.prune.width:Width",
    "width_taylor": "layersmith.refitting.methods.prune.width_taylor:WidthTaylor",
    "adaptive_width": "layersmith.refitting.methods.prune.adaptive_width:AdaptiveWidth",
    "dotresize": "layersmith.refitting.methods.prune.dotresize:DOTResize",
    "shed": "layersmith.refitting.methods.prune.shed:Shed",
    "removal": "layersmith.refitting.methods.prune.removal:Removal",
    "magnitude": "layersmith.refitting.methods.prune.magnitude:Magnitude",
    "two_four": "layersmith.refitting.methods.prune.two_four:TwoFour",
    "span": "layersmith.refitting.methods.prune.span:Span",
    "fusegpt": "layersmith.refitting.methods.drop.fusegpt:FuseGPT",
    "heads": "layersmith.refitting.methods.prune.heads:Heads",
    "kv_merge": "layersmith.refitting.methods.prune.kv_merge:KVMerge",
    "sliding_window": "layersmith.refitting.methods.prune.sliding_window:SlidingWindow",
    "tova": "layersmith.refitting.methods.prune.tova:ToTOVA",
    "topk_retrieval": "layersmith.refitting.methods.prune.topk_retrieval:TopKRetrieval",
    "combiner": "layersmith.refitting.methods.replace.to_combiner:ToCombiner",
    "low_rank": "layersmith.refitting.methods.fits.low_rank:LowRankWeights",
    "dense_sparse": "layersmith.refitting.methods.fits.dense_sparse:DenseSparseWeights",
    "structured": "layersmith.refitting.methods.replace.to_structured:ToStructured",
    "linear_attention": "layersmith.refitting.methods.replace.to_linear_attention:ToLinearAttention",
    "mamba2": "layersmith.refitting.methods.replace.to_mamba2:ToMamba2",
    "gated_deltanet": "layersmith.refitting.methods.replace.to_gated_deltanet:ToGatedDeltaNet",
    "gla": "layersmith.refitting.methods.replace.to_gla:ToGLA",
    "mlstm": "layersmith.refitting.methods.replace.to_mlstm:ToMLSTM",
    "retnet": "layersmith.refitting.methods.replace.to_retnet:ToRetNet",
    "topk": "layersmith.refitting.methods.prune.topk:TopK",
    "carve": "layersmith.refitting.methods.prune.carve:Carve",
    "moefication": "layersmith.refitting.methods.experts.moefication:MoEfication",
    "emoe": "layersmith.refitting.methods.experts.emoe:EMoE",
    "factor_llm": "layersmith.refitting.methods.experts.factor_llm:FactorLLM",
    "llama_moe": "layersmith.refitting.methods.experts.llama_moe:LLaMAMoE",
    "taylor_moe": "layersmith.refitting.methods.experts.taylor_moe:TaylorMoE",
    "averaged_copies": "layersmith.refitting.methods.experts.averaged_copies:ExpertsAveraging",
    "gr_kan": "layersmith.refitting.methods.replace.to_gr_kan:ToGRKAN",
    "poly_relu": "layersmith.refitting.methods.replace.to_poly_relu:ToPolyReLU",
    "bilinear": "layersmith.refitting.methods.replace.to_bilinear:ToBilinear",
    "poly_norm": "layersmith.refitting.methods.replace.to_poly_norm:ToPolyNorm",
    "kan": "layersmith.refitting.methods.replace.to_kan:ToKAN",
    "select_kan": "layersmith.refitting.methods.replace.to_select_kan:ToSelectKAN",
    "tru_kan": "layersmith.refitting.methods.replace.to_tru_kan:ToTruKAN",
    "hqkan": "layersmith.refitting.methods.replace.to_hqkan:ToHQKAN",
    "af_kan": "layersmith.refitting.methods.replace.to_af_kan:ToAFKAN",
    "pkm": "layersmith.refitting.methods.replace.to_pkm:ToPKM",
    "peer": "layersmith.refitting.methods.replace.to_peer:ToPEER",
    "memory_former": "layersmith.refitting.methods.replace.to_memory_former:ToMemoryFormer",
    "pattention": "layersmith.refitting.methods.replace.to_pattention:ToPattention",
    "snnk": "layersmith.refitting.methods.replace.to_snnk:ToSNNK",
    "cofrgenet": "layersmith.refitting.methods.replace.to_cofrgenet:ToCoFrGeNet",
    "lipschitz_ffn": "layersmith.refitting.methods.replace.to_lipschitz_ffn:ToLipschitzFFN",
    "ugmm": "layersmith.refitting.methods.replace.to_ugmm:ToUGMM",
    "logic_gates": "layersmith.refitting.methods.replace.to_logic_gates:ToLogicGates",
    "ultra_mem": "layersmith.refitting.methods.replace.to_ultra_mem:ToUltraMem",
    "sparse_vq": "layersmith.refitting.methods.replace.to_sparse_vq:ToSparseVQ",
    "dyt": "layersmith.refitting.methods.replace.to_dyt:ToDyT",
    "transcoder": "layersmith.refitting.methods.replace.to_sparse_dictionary:ToSparseDictionary",
    "idle_ffn": "layersmith.refitting.methods.prune.to_idle_ffn:ToIdleFFN",
    "hourglass": "layersmith.refitting.methods.replace.to_hourglass:ToHourglass",
    "deep_mlp": "layersmith.refitting.methods.replace.to_deep_mlp:ToDeepMLP",
    "cascaded_ffn": "layersmith.refitting.methods.replace.to_cascaded_ffn:ToCascadedFFN",
    "smart_mixed": "layersmith.refitting.methods.replace.to_smart_mixed:ToSmartMixed",
    "power_softmax": "layersmith.refitting.methods.replace.to_power_softmax:ToPowerSoftmax",
    "limit_softmax": "layersmith.refitting.methods.replace.to_limit_softmax:ToLimitSoftmax",
    "relu_attention": "layersmith.refitting.methods.replace.to_relu_attention:ToReLUAttention",
    "spark_attention": "layersmith.refitting.methods.replace.to_spark_attention:ToSparkAttention",
    "urpe": "layersmith.refitting.methods.replace.to_urpe:ToURPE",
    "partial_attention": "layersmith.refitting.methods.replace.to_partial_attention:ToPartialAttention",
    "piecewise_gelu": "layersmith.refitting.methods.replace.to_piecewise_gelu:ToPiecewiseGELU",
    "swap_test": "layersmith.refitting.methods.replace.to_swap_test:ToSwapTest",
    "nested_glu": "layersmith.refitting.methods.replace.to_nested_glu:ToNestedGLU",
    "mglu": "layersmith.refitting.methods.replace.to_mglu:ToMGLU",
    "spark_ffn": "layersmith.refitting.methods.replace.to_spark_ffn:ToSparkFFN",
    "fff": "layersmith.refitting.methods.replace.to_fff:ToFFF",
    "fff_leaves": "layersmith.refitting.methods.replace.to_fff_leaves:ToFFFLeaves",
    "topk_moe": "layersmith.refitting.methods.replace.to_topk_moe:ToTopKMoE",
    "switch_moe": "layersmith.refitting.methods.replace.to_switch_moe:ToSwitchMoE",
    "sigma_moe": "layersmith.refitting.methods.replace.to_sigma_moe:ToSigmaMoE",
    "shaped_mlp": "layersmith.refitting.methods.replace.to_shaped_mlp:ToShapedMLP",
    "rms_norm": "layersmith.refitting.methods.replace.to_rms_norm:ToRMSNorm",
    "layer_norm": "layersmith.refitting.methods.replace.to_layer_norm:ToLayerNorm",
    "crms_norm": "layersmith.refitting.methods.replace.to_crms_norm:ToCRMSNorm",
    "fixed_norm": "layersmith.refitting.methods.replace.to_fixed_norm:ToFixedNorm",
    "prep_bn": "layersmith.refitting.methods.replace.to_prep_bn:ToPRepBN",
    "int8_dynamic": "layersmith.refitting.methods.quantize.int8_dynamic:Int8DynamicWeights",
    "smooth_int8": "layersmith.refitting.methods.quantize.smooth_int8:SmoothInt8",
    "int8_weight": "layersmith.refitting.methods.quantize.int8_weight:Int8Weight",
    "int4_weight": "layersmith.refitting.methods.quantize.int4_weight:Int4Weight",
    "int8_static": "layersmith.refitting.methods.quantize.int8_static:Int8StaticWeights",
    "block_shift": "layersmith.refitting.methods.quantize.block_shift:BlockShiftWeights",
    "fp4": "layersmith.refitting.methods.quantize.fp4:FP4",
    "moqe": "layersmith.refitting.methods.quantize.moqe:MoQE",
    "bf16": "layersmith.refitting.methods.quantize.bf16:BF16",
    "piecewise_affine": "layersmith.refitting.methods.quantize.piecewise_affine:ToPiecewiseAffine",
    "rtn": "layersmith.refitting.methods.quantize.rtn:RTN",
    "gptq": "layersmith.refitting.methods.quantize.gptq:GPTQ",
}


#: Between the two steps of a chain: "width+int8_dynamic" narrows a feed-forward and then rounds what is left of it.
THEN = "+"


def check_methods(names: list[str]) -> None:
    """Raise a UserError with the closest names for a name that is no method's. Imports nothing."""
    for name in steps(names):
        if name not in METHODS:
            near = suggest(name, list(METHODS))
            raise UserError(f"Unknown method {name!r}. {near} `layersmith methods` lists all {len(METHODS)}.")


def target(name: str) -> str:
    """The "module:Class" of the method, or of the chain, of that name."""
    return "layersmith.refitting.methods.chain:Chain" if THEN in name else METHODS[name]


def get(name: str) -> Method:
    """The method of that name; a UserError with the closest names otherwise."""
    check_methods([name])
    if THEN in name:
        from layersmith.refitting.methods.chain import Chain

        first, _, then = name.partition(THEN)
        return Chain(get(first), get(then))
    module_name, _, class_name = METHODS[name].partition(":")
    method: type[Method] = getattr(importlib.import_module(module_name), class_name)
    return method()


def building(part: str) -> list[str]:
    """The methods that put this part of the catalogue in place."""
    return [name for name in METHODS if part in get(name).builds]


def chosen(wanted: list[str] | None, budgets: list[str]) -> list[str]:
    """The methods of a run: the named ones (checked), or every default one that can help with one of the budgets.

    With them come the chains that they make: each that number formats may follow, with each number format.
    """
    if wanted is None:
        names = [name for name in METHODS if get(name).default and set(get(name).saves) & set(budgets)]
    else:
        names = list(dict.fromkeys(wanted))
    formats = [name for name in names if get(name).everywhere]
    chains = [f"{name}{THEN}{then}" for name in names if get(name).chains for then in formats]
    return list(dict.fromkeys([*names, *chains]))


def steps(names: list[str]) -> list[str]:
    """The single methods among these, and those that the chains among them consist of."""
    return list(dict.fromkeys(step for name in names for step in name.split(THEN)))


def reads(names: list[str], statistic: str) -> bool:
    """Whether one of these methods needs that statistic of the calibration."""
    return any(statistic in get(name).statistics for name in names)


def forgets(names: list[str]) -> bool:
    """Whether what one of these methods loses shows in long texts alone."""
    return any(get(name).forgets for name in steps(names))
