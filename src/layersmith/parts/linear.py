"""The linear maps of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "almost_orthogonal": Entry(
        "layersmith.linear.almost_orthogonal:AlmostOrthogonal",
        "linear",
        ("1-lipschitz-network-initialization-certifiably",),
        {"d_in": 32, "d_out": 48, "bias": True},
        missing="the residual layers of the same bound",
    ),
    "bf16": Entry(
        "layersmith.linear.half_precision:HalfPrecision", "linear", (), {"d_in": 32, "d_out": 48, "bias": True}
    ),
    "block_dense": Entry(
        "layersmith.linear.block_dense:BlockDense",
        "linear",
        ("2406.16450",),
        {"d_in": 32, "d_out": 48, "rank": 16, "blocks": 4},
    ),
    "block_shift": Entry(
        "layersmith.linear.block_shift:BlockShift",
        "linear",
        ("blockwise-compression-transformer-based-models",),
        {"d_in": 32, "d_out": 48, "bits": 4, "block": 20, "bias": True},
        missing="softmax, GELU, norms and embeddings on compressed values",
    ),
    "block_shuffle": Entry(
        "layersmith.linear.block_shuffle:BlockShuffle",
        "linear",
        ("2406.16450",),
        {"d_in": 32, "d_out": 48, "blocks": 4},
    ),
    "butterfly": Entry("layersmith.linear.butterfly:Butterfly", "linear", ("1903.05895",), {"d_in": 32, "d_out": 48}),
    "dense_sparse": Entry(
        "layersmith.linear.dense_sparse:DenseSparse",
        "linear",
        ("dsformer-effective-compression-text-transformers",),
        {"d_in": 32, "d_out": 48, "basis": 12, "k": 3, "blocks": 2, "bias": True},
        missing="the straight-through factorizer, which learns places and factors for the task",
    ),
    "fp4": Entry(
        "layersmith.linear.fp4:FP4Linear",
        "linear",
        ("diagnosing-fp4-inference",),
        {"d_in": 32, "d_out": 48, "format": "nvfp4", "bias": True},
    ),
    "int8_dynamic": Entry(
        "layersmith.linear.int8_dynamic:Int8Dynamic",
        "linear",
        ("2208.07339",),
        {"d_in": 32, "d_out": 48, "bias": True},
        missing="the columns of outliers that stay in half precision",
    ),
    "int8_static": Entry(
        "layersmith.linear.int8_static:Int8Static",
        "linear",
        ("1910.06188",),
        {"d_in": 32, "d_out": 48, "bias": True},
        missing="int8 embeddings, int8 outputs, and thresholds that go on moving while the model is trained",
    ),
    "linear": Entry("layersmith.linear.dense:Dense", "linear", (), {"d_in": 32, "d_out": 48}),
    "low_rank": Entry(
        "layersmith.linear.low_rank:LowRank",
        "linear",
        ("2406.16450", "2108.10808", "investigating-low-rank-training-transformer"),
        {"d_in": 32, "d_out": 48, "rank": 8},
        missing="factors that start from the SVD of a random matrix",
    ),
    "memory_linear": Entry(
        "layersmith.linear.memory_linear:MemoryLinear", "linear", ("2411.12992",), {"d_in": 32, "d_out": 48, "bits": 4}
    ),
    "mlp_memory": Entry(
        "layersmith.linear.mlp_memory:MLPMemory",
        "linear",
        ("mlp-memory",),
        {"d_in": 32, "d_out": 48, "d_hidden": 24},
        missing="a memory that reads a state from inside the model",
    ),
    "one_row": Entry("layersmith.linear.one_row:OneRow", "linear", (), {"d_in": 32, "d_out": 48, "bias": True}),
    "piecewise_affine": Entry(
        "layersmith.linear.piecewise_affine:PiecewiseAffine",
        "linear",
        ("multiplication-free-transformer-training-piecewise",),
        {"d_in": 32, "d_out": 48, "bias": True},
        missing="softmax, norms, loss and optimizer without multiplications",
    ),
    "quantized": Entry(
        "layersmith.linear.quantized:QuantizedLinear",
        "linear",
        ("2210.17323",),
        {"d_in": 32, "d_out": 48, "bits": 3, "group_size": 16, "bias": True},
    ),
    "residual_head": Entry(
        "layersmith.linear.residual_head:ResidualHead",
        "linear",
        ("simple-projection-variants-improve-colbert",),
        {"d_in": 32, "d_out": 48, "d_hidden": 40},
        missing="its paper's deeper variants, and the retrieval that they are trained for",
    ),
    "sparse": Entry(
        "layersmith.linear.sparse:SparseLinear",
        "linear",
        ("can-pruning-make-large-language", "accelerating-transformer-pre-training-2"),
        {"d_in": 32, "d_out": 48, "kept": 500, "bias": True},
    ),
    "variational": Entry(
        "layersmith.linear.variational:VariationalLinear",
        "linear",
        ("variational-dropout-sparsification-particle-identification",),
        {"d_in": 32, "d_out": 48, "bias": True},
        missing="the removal of units that have lost all weights, which is what makes its networks faster",
    ),
}
