"""Trained attention with other scores: what changes nothing gives the original back; a window is refused."""

import pytest

from layersmith.refitting import methods


@pytest.mark.parametrize(
    ("name", "settings"), [("spark_attention", {"k": 24}), ("urpe", {"max_distance": 4})], ids=lambda value: str(value)
)
def test_the_mildest_start_equals_the_trained_attention(name, settings, view):
    at = view("layers.1.attn")
    assert at.local_error(methods.get(name).build(at, settings)) < 1e-9


def test_the_error_falls_as_more_keys_are_kept(view):
    at, method = view("layers.1.attn"), methods.get("spark_attention")
    errors = [at.local_error(method.build(at, {"k": k})) for k in (2, 6, 12, 24)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01


@pytest.mark.parametrize("name", ["power_softmax", "limit_softmax", "relu_attention"])
def test_trained_heads_are_carried_over(name, view):
    at = view("layers.1.attn")
    ((_, part),) = methods.get(name).build(at, methods.get(name).options(at)[0])
    assert part.spec()["scale"] == at.attention.operator.scale
    assert part.spec()["rope_theta"] == at.attention.operator.rope_theta
    assert part.k.weight.equal(at.attention.operator.k.weight)
    assert at.local_error([*methods.get(name).build(at, {})]) < 5


@pytest.mark.parametrize("name", ["power_softmax", "limit_softmax", "relu_attention", "spark_attention", "urpe"])
def test_a_window_is_refused(name, view):
    at = view("layers.1.attn")
    assert methods.get(name).unsupported_reason(at) is None
    at.attention.operator.window = 8
    assert methods.get(name).unsupported_reason(at) == "it attends within a window"
