"""What is read from a result."""

import math

import pytest

from layersmith.report import reading
from layersmith.report.reading import Place, place

from .results import make_result


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("layers.3.ffn", Place("", 3, "ffn")),
        ("layers.12", Place("", 12, "block")),
        ("decoder.layers.0.cross_attn_norm", Place("decoder", 0, "cross_attn_norm")),
        ("final_norm", Place("", None, "final_norm")),
    ],
)
def test_place(site, expected):
    assert place(site) == expected


def test_a_measured_ratio_is_preferred_to_a_quotient():
    result = {"baseline": {"latency_ms": 10.0, "params": 100}}
    assert reading.ratio(result, {"latency_ms": 8.0, "latency_ratio": 0.77}, "latency") == 0.77
    assert reading.ratio(result, {"latency_ms": 8.0}, "latency") == 0.8
    assert reading.ratio(result, {"params": 50}, "params") == 0.5
    assert reading.ratio(result, None, "params") is None
    assert reading.ratio({}, {"params": 50}, "params") is None


def test_the_charts_follow_the_budget():
    assert reading.main_cost({}) == "latency"
    assert reading.main_cost({"settings": {"budget": {"bytes": 0.5, "latency": 0.9}}}) == "latency"
    assert reading.main_cost({"settings": {"budget": {"bytes": 0.5}}}) == "bytes"


def test_best_uniform_is_the_least_divergence_within_budget():
    result = make_result()
    best = reading.best_uniform(result, "measured")
    within = [u["measured"]["kl"] for u in result["uniform"] if u["meets_budget"]]
    assert best["measured"]["kl"] == min(within)
    for u in result["uniform"]:
        u["meets_budget"] = False
    assert reading.best_uniform(result, "measured") is None


def test_before_healing_only_where_healing_was_kept():
    kept, rolled_back, none = (make_result(heal=h) for h in ("kept", "rolled_back", "none"))
    assert reading.final_and_unhealed(kept)[1] == kept["chosen"]["unhealed"]
    assert reading.final_and_unhealed(rolled_back)[1] is None
    assert reading.final_and_unhealed(none) == (none["chosen"]["measured"], None)
    assert reading.final_and_unhealed({}) == (None, None)


def test_divergence_kind():
    assert reading.divergence_of(make_result()).short == "KL"
    assert reading.divergence_of(make_result(encoder=True)).short == "relative error"
    assert reading.divergence_of({}).short == "KL"


def test_finite_replaces_and_tells_where():
    found = []
    clean = reading.finite({"a": [1.0, math.nan], "b": {"c": -math.inf, 3: "x"}}, found=found)
    assert clean == {"a": [1.0, None], "b": {"c": None, "3": "x"}}
    assert found == ["result.a[1]", "result.b.c"]


def test_names():
    assert reading.named({"method": "width", "settings": {"keep": 0.5, "bits": 4}}) == "width keep=0.5 bits=4"
    assert reading.named({"method": "drop", "label": "drop mixer", "settings": {}}) == "drop mixer"
    assert reading.built_at({"id": "layers.3.attn/drop/default"}) == "layers.3.attn"
