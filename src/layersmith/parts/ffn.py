"""The feed-forwards of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "af_kan": Entry("layersmith.ffn.af_kan:AFKAN", "ffn", ("2503.06112",), {"d_model": 32, "d_hidden": 64}),
    "affine": Entry("layersmith.ffn.affine:Affine", "ffn", (), {"d_model": 32}),
    "averaged_copies": Entry(
        "layersmith.ffn.averaged_copies:AveragedCopies",
        "ffn",
        ("experts-weights-averaging",),
        {"d_model": 32, "d_hidden": 64},
    ),
    "bilinear": Entry("layersmith.ffn.bilinear:Bilinear", "ffn", ("2305.03452",), {"d_model": 32, "d_hidden": 64}),
    "carved_moe": Entry(
        "layersmith.ffn.carved_moe:CarvedMoE",
        "ffn",
        ("2502.04416",),
        {"d_model": 32, "d_expert": 8, "n_shared": 2, "n_routed": 6, "k": 2},
    ),
    "cascaded_ffn": Entry(
        "layersmith.ffn.cascaded_ffn:CascadedFFN",
        "ffn",
        ("2511.14111",),
        {"d_model": 32, "d_hidden": 64},
        missing="the cascaded group attention of the paper's blocks",
    ),
    "cofrgenet": Entry(
        "layersmith.ffn.cofrgenet:CoFrGeNet",
        "ffn",
        ("2601.21766",),
        {"d_model": 32},
        missing="the paper's token mixers made of the same fractions",
    ),
    "constant": Entry("layersmith.ffn.constant:Constant", "ffn", (), {"d_model": 32}),
    "deep_mlp": Entry("layersmith.ffn.deep_mlp:DeepMLP", "ffn", ("2505.06633",), {"d_model": 32, "d_hidden": 64}),
    "domain_adapters": Entry(
        "layersmith.ffn.domain_adapters:DomainAdapters",
        "ffn",
        ("mixture-domain-adapters",),
        {"d_model": 32, "d_hidden": 64, "d_adapter": 8},
        missing="its two stages: an adapter a domain, with a loss that keeps what was known, before the gate",
    ),
    "equations": Entry(
        "layersmith.ffn.equations:Equations",
        "ffn",
        ("symtorch-symbolic-distillation-neural-networks",),
        {
            "d_model": 32,
            "inputs": 3,
            "equations": [["add", ["mul", 0.5, "x0"], ["sin", "x1"]], ["aq", ["square", "x2"], "x0"]],
        },
    ),
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
    "lora_experts": Entry(
        "layersmith.ffn.lora_experts:LoRAExperts",
        "ffn",
        ("llava-mole",),
        {"d_model": 32, "d_hidden": 64, "n_experts": 3, "rank": 4},
        missing="plain adapters in the attention, and the pictures and instructions that it is trained on",
    ),
    "low_rank_affine": Entry("layersmith.ffn.low_rank_affine:LowRankAffine", "ffn", (), {"d_model": 32, "rank": 8}),
    "memory_former": Entry(
        "layersmith.ffn.memory_former:MemoryFormer", "ffn", ("2411.12992",), {"d_model": 32, "bits": 4, "extra_bits": 1}
    ),
    "mglu": Entry("layersmith.ffn.mglu:MGLU", "ffn", ("2506.23225",), {"d_model": 32, "d_hidden": 64, "n_masks": 2}),
    "mlp": Entry("layersmith.ffn.mlp:MLP", "ffn", (), {"d_model": 32, "d_hidden": 64}),
    "nested_glu": Entry(
        "layersmith.ffn.nested_glu:NestedGLU",
        "ffn",
        ("matformer-nested-transformer-elastic-inference",),
        {"d_model": 32, "d_hidden": 64},
    ),
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
    "piecewise_gelu": Entry(
        "layersmith.ffn.piecewise_gelu:PiecewiseGELU",
        "ffn",
        ("puma-secure-inference-llama-7b",),
        {"d_model": 32, "d_hidden": 64},
        missing="its paper's protocols on secret shares",
    ),
    "pkm": Entry(
        "layersmith.ffn.pkm:PKM",
        "ffn",
        ("1907.05242", "2310.10837"),
        {"d_model": 32, "n_keys": 8, "heads": 2, "k": 4, "d_key": 16},
    ),
    "poly_norm": Entry("layersmith.ffn.poly_norm:PolyNorm", "ffn", ("2411.03884",), {"d_model": 32, "d_hidden": 64}),
    "poly_relu": Entry("layersmith.ffn.poly_relu:PolyReLU", "ffn", ("2411.03884",), {"d_model": 32, "d_hidden": 64}),
    "quantized_moe": Entry(
        "layersmith.ffn.quantized_moe:QuantizedMoE",
        "ffn",
        ("mixture-quantized-experts-moqe",),
        {"d_model": 32, "d_expert": 16, "n_experts": 6, "k": 2, "bits": 3},
        missing="training through the rounding at two bits, and kernels that multiply packed experts",
    ),
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
    ),
    "sparse_dictionary": Entry(
        "layersmith.ffn.sparse_dictionary:SparseDictionary",
        "ffn",
        ("2406.11944",),
        {"d_model": 32, "d_features": 64, "k": 8},
    ),
    "sparse_vq": Entry(
        "layersmith.ffn.sparse_vq:SparseVQ",
        "ffn",
        ("2402.05830",),
        {"d_model": 32, "codes": 12, "heads": 2},
        missing=(
            "the normalisation of each series (RevIN) that the paper's forecasting model wraps around, and the sparse "
            "map over its forecast"
        ),
    ),
    "split_ffn": Entry(
        "layersmith.ffn.split_ffn:SplitFFN",
        "ffn",
        (
            "2110.01786",
            "emergent-mixture-experts",
            "factorllm-factorizing-knowledge-mixture-experts",
            "llama-moe",
            "dense2moe-restructuring-diffusion-transformer-moe",
        ),
        {"d_model": 32, "d_expert": 8, "n_experts": 6, "k": 2, "n_shared": 1},
    ),
    "structured": Entry(
        "layersmith.ffn.structured:StructuredFFN",
        "ffn",
        ("2406.16450",),
        {"d_model": 32, "d_hidden": 64, "structure": "block_dense", "rank": 16, "blocks": 4},
    ),
    "swap_test": Entry(
        "layersmith.ffn.swap_test:SwapTest",
        "ffn",
        ("scalable-quantum-neural-networks-few",),
        {"d_model": 32, "d_hidden": 64},
        missing="the noise of a finite number of measurements",
    ),
    "switch_moe": Entry(
        "layersmith.ffn.switch_moe:SwitchMoE",
        "ffn",
        ("2101.03961",),
        {"d_model": 32, "d_expert": 16, "n_experts": 4},
        missing="the paper's dropout inside experts for fine-tuning, and its distillation back into a dense model",
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
        missing="memories whose outputs join the stream some layers later",
    ),
    "zero": Entry("layersmith.ffn.zero:Zero", "ffn", (), {"d_model": 32}),
}
