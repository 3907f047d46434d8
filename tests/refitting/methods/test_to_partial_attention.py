"""A small feed-forward in the heads that changes nothing."""

from layersmith.refitting.methods.replace.to_partial_attention import ToPartialAttention


def test_equals_the_trained_attention(view):
    at = view("layers.1.attn")
    assert at.local_error(ToPartialAttention().build(at, {})) < 1e-10
