"""From a trained gated feed-forward to a Spark-FFN."""

import pytest

from layersmith.refitting import methods
from layersmith.refitting.methods.replace.to_spark_ffn import ToSparkFFN


def test_all_channels_are_the_original_and_the_error_falls_with_more_of_them(view):
    at, method = view("layers.1.ffn"), ToSparkFFN()
    error = {k: at.local_error(method.build(at, {"keep": k, "split": False})) for k in (1.0, 0.5, 0.2)}
    assert error[1.0] < 1e-10
    assert error[1.0] < error[0.5] < error[0.2] < 1


def test_split_beats_the_mean_output(view):
    at, method = view("layers.1.ffn"), ToSparkFFN()
    at.holdout = at.fit
    split = at.local_error(method.build(at, {"keep": 0.5, "split": True}))
    mean = methods.get("mean")
    assert split < at.local_error(mean.build(at, mean.options(at)[0]))


def test_refuses_attention_and_what_has_no_gate(view):
    at = view("layers.1.ffn")
    at.ffn = None
    assert ToSparkFFN().unsupported_reason(at) == "it is not a gated feed-forward"


@pytest.mark.parametrize("budget", ["latency", "params", "bytes", "flops", "kv"])
def test_runs_only_when_asked_for(budget):
    assert "spark_ffn" not in methods.chosen(None, [budget])
