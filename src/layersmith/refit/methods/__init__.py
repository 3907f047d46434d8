"""The methods, one per file. This table is the only list of them; a class is imported when it is asked for."""

from __future__ import annotations

import importlib

from layersmith.errors import UserError, suggest
from layersmith.refit.method import Method

#: The four floors every candidate is measured against. They are candidates like any other, and always built.
FLOORS = {"zero": "drop", "mean": "mean", "ridge_linear": "linear", "rank_r": "rank_r"}

METHODS: dict[str, str] = {
    "drop": "layersmith.refit.methods.drop:Drop",
    "mean": "layersmith.refit.methods.mean:Mean",
    "linear": "layersmith.refit.methods.linear:LinearMap",
    "rank_r": "layersmith.refit.methods.rank_r:RankR",
    "width": "layersmith.refit.methods.width:Width",
    "width_taylor": "layersmith.refit.methods.width_taylor:WidthTaylor",
    "span": "layersmith.refit.methods.span:Span",
    "heads": "layersmith.refit.methods.heads:Heads",
    "kv_merge": "layersmith.refit.methods.kv_merge:KVMerge",
    "low_rank": "layersmith.refit.methods.low_rank:LowRankWeights",
    "structured": "layersmith.refit.methods.to_structured:ToStructured",
    "linear_attention": "layersmith.refit.methods.to_linear_attention:ToLinearAttention",
    "topk": "layersmith.refit.methods.topk:TopK",
    "carve": "layersmith.refit.methods.carve:Carve",
    "gr_kan": "layersmith.refit.methods.to_gr_kan:ToGRKAN",
    "poly_relu": "layersmith.refit.methods.to_poly_relu:ToPolyReLU",
    "bilinear": "layersmith.refit.methods.to_bilinear:ToBilinear",
    "poly_norm": "layersmith.refit.methods.to_poly_norm:ToPolyNorm",
    "kan": "layersmith.refit.methods.to_kan:ToKAN",
    "select_kan": "layersmith.refit.methods.to_select_kan:ToSelectKAN",
    "tru_kan": "layersmith.refit.methods.to_tru_kan:ToTruKAN",
    "hqkan": "layersmith.refit.methods.to_hqkan:ToHQKAN",
    "af_kan": "layersmith.refit.methods.to_af_kan:ToAFKAN",
    "pkm": "layersmith.refit.methods.to_pkm:ToPKM",
    "peer": "layersmith.refit.methods.to_peer:ToPEER",
    "memory_former": "layersmith.refit.methods.to_memory_former:ToMemoryFormer",
    "pattention": "layersmith.refit.methods.to_pattention:ToPattention",
    "snnk": "layersmith.refit.methods.to_snnk:ToSNNK",
    "cofrgenet": "layersmith.refit.methods.to_cofrgenet:ToCoFrGeNet",
    "lipschitz_ffn": "layersmith.refit.methods.to_lipschitz_ffn:ToLipschitzFFN",
    "ugmm": "layersmith.refit.methods.to_ugmm:ToUGMM",
    "logic_gates": "layersmith.refit.methods.to_logic_gates:ToLogicGates",
    "ultra_mem": "layersmith.refit.methods.to_ultra_mem:ToUltraMem",
    "sparse_vq": "layersmith.refit.methods.to_sparse_vq:ToSparseVQ",
    "dyt": "layersmith.refit.methods.to_dyt:ToDyT",
    "idle_ffn": "layersmith.refit.methods.to_idle_ffn:ToIdleFFN",
    "hourglass": "layersmith.refit.methods.to_hourglass:ToHourglass",
    "deep_mlp": "layersmith.refit.methods.to_deep_mlp:ToDeepMLP",
    "cascaded_ffn": "layersmith.refit.methods.to_cascaded_ffn:ToCascadedFFN",
    "smart_mixed": "layersmith.refit.methods.to_smart_mixed:ToSmartMixed",
    "partial_attention": "layersmith.refit.methods.to_partial_attention:ToPartialAttention",
    "mglu": "layersmith.refit.methods.to_mglu:ToMGLU",
    "spark_ffn": "layersmith.refit.methods.to_spark_ffn:ToSparkFFN",
    "fff": "layersmith.refit.methods.to_fff:ToFFF",
    "fff_leaves": "layersmith.refit.methods.to_fff_leaves:ToFFFLeaves",
    "topk_moe": "layersmith.refit.methods.to_topk_moe:ToTopKMoE",
    "switch_moe": "layersmith.refit.methods.to_switch_moe:ToSwitchMoE",
    "sigma_moe": "layersmith.refit.methods.to_sigma_moe:ToSigmaMoE",
    "shaped_mlp": "layersmith.refit.methods.to_shaped_mlp:ToShapedMLP",
    "rms_norm": "layersmith.refit.methods.to_rms_norm:ToRMSNorm",
    "layer_norm": "layersmith.refit.methods.to_layer_norm:ToLayerNorm",
    "crms_norm": "layersmith.refit.methods.to_crms_norm:ToCRMSNorm",
    "prep_bn": "layersmith.refit.methods.to_prep_bn:ToPRepBN",
    "rtn": "layersmith.refit.methods.rtn:RTN",
    "gptq": "layersmith.refit.methods.gptq:GPTQ",
}


def get(name: str) -> Method:
    """The method of that name; a UserError with the closest names otherwise."""
    if name not in METHODS:
        raise UserError(f"Unknown method {name!r}. {suggest(name, list(METHODS))}")
    module_name, _, class_name = METHODS[name].partition(":")
    method: type[Method] = getattr(importlib.import_module(module_name), class_name)
    return method()


def building(part: str) -> list[str]:
    """The methods that put this part of the catalogue in place."""
    return [name for name in METHODS if part in get(name).builds]


def chosen(wanted: list[str] | None, budgets: list[str]) -> list[str]:
    """The methods of a run: the named ones (checked), or all that can help with one of the budgets."""
    if wanted is None:
        return [name for name in METHODS if set(get(name).saves) & set(budgets)]
    for name in wanted:
        get(name)
    return list(dict.fromkeys(wanted))
