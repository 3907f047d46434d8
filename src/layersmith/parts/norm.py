"""The norms of the table of parts."""

from __future__ import annotations

from layersmith.parts.entry import Entry

ENTRIES: dict[str, Entry] = {
    "crms_norm": Entry(
        "layersmith.norm.crms_norm:CRMSNorm",
        "norm",
        ("2305.14858",),
        {"d_model": 32},
        missing="the conversion of a whole model to a stream that is one channel narrower",
    ),
    "dyt": Entry("layersmith.norm.dyt:DyT", "norm", ("2503.10622",), {"d_model": 32}),
    "fixed_norm": Entry(
        "layersmith.norm.fixed_norm:FixedNorm",
        "norm",
        ("2409.13710",),
        {"d_model": 32, "sinks": True, "steps": 2},
        missing="queries and keys that lose the norm before values do",
    ),
    "layer_norm": Entry("layersmith.norm.layer_norm:LayerNorm", "norm", (), {"d_model": 32}),
    "prep_bn": Entry(
        "layersmith.norm.prep_bn:PRepBN",
        "norm",
        ("2405.11582",),
        {"d_model": 32, "steps": 4},
        missing=("the simplified linear attention that its paper pairs it with, and the warm-up before its schedule"),
    ),
    "rms_norm": Entry("layersmith.norm.rms_norm:RMSNorm", "norm", (), {"d_model": 32}),
}
