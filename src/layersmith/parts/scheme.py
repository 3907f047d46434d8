"""The schemes of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "deep_scale_lm": Entry(
        "layersmith.scheme.deep_scale_lm:DeepScaleLM", "scheme", ("2403.09635",), {"correlation": 0.221}
    ),
    "depth_mup": Entry(
        "layersmith.scheme.depth_mup:DepthMuP",
        "scheme",
        ("2310.02244",),
        {"base_width": 64},
        missing="the mean that the paper's blocks of one map subtract from their outputs",
    ),
    "edge_of_chaos": Entry("layersmith.scheme.edge_of_chaos:EdgeOfChaos", "scheme", ("1902.06853",), {"bias": 0.2}),
    "norm_place": Entry("layersmith.scheme.norm_place:NormPlace", "scheme", ("2002.04745",), {"place": "post"}),
    "shaped": Entry(
        "layersmith.scheme.shaped:Shaped",
        "scheme",
        ("2306.17759",),
        {"gamma": 0.3},
        missing="the differential equation that the paper's limit of depth and width is",
    ),
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
