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


@pytest.mark.parametrize(
    ("site", "title"),
    [
        ("layers.3.attn", "mixer"),
        ("layers.3.attn_norm", "mixer norm"),
        ("decoder.layers.0.cross_attn_norm", "decoder cross-attention norm"),
        ("layers.3.ffn2", "ffn2"),
    ],
)
def test_title_of_a_place(site, title):
    assert place(site).title == title


def test_a_missed_budget_never_reads_like_the_budget():
    result = {"baseline": {"params": 1000}, "settings": {"budget": {"params": 0.6}}}
    assert reading.share_of(result, {"params": 604}, "params") == "0.604×"
    assert reading.share_of(result, {"params": 600}, "params") == "0.60×"
    assert reading.share_of(result, {"params": 596}, "params") == "0.60×"
    assert reading.share_of({}, {"params": 596}, "params") == "–"
    assert reading.reach_of(result, {"reach": {"params": 0.60004, "kv": None}}) == {"params": "0.60004×"}


def test_what_healing_kept():
    assert reading.kept_of(make_result())["step"] == 300
    assert reading.kept_of(make_result(heal="rolled_back"))["step"] == 0
    assert reading.kept_of({"heal": {"curve": [{"step": 0}]}}) is None


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
    within = [u["measured"]["divergence"] for u in result["uniform"] if u["meets_budget"]]
    assert best["measured"]["divergence"] == min(within)
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
    assert reading.divergence_of(make_result()).unit == "nats per token"
    assert reading.divergence_of(make_result(encoder=True)).unit == "relative squared error"
    classifier = make_result()
    classifier["baseline"]["perplexity"] = None
    assert reading.divergence_of(classifier).unit == "nats per prediction"
    assert reading.divergence_of({}).unit == "nats per prediction"


def test_finite_replaces_and_tells_where():
    found = []
    clean = reading.finite({"a": [1.0, math.nan], "b": {"c": -math.inf, 3: "x"}}, found=found)
    assert clean == {"a": [1.0, None], "b": {"c": None, "3": "x"}}
    assert found == ["result.a[1]", "result.b.c"]


def test_names():
    assert reading.named({"method": "width", "settings": {"keep": 0.5, "bits": 4}}) == "width keep=0.5 bits=4"
    assert reading.named({"method": "drop", "label": "drop mixer", "settings": {}}) == "drop mixer"
    assert reading.built_at({"id": "layers.3.attn/drop/default"}) == "layers.3.attn"
