"""From a trained feed-forward to a cascade of chunks."""

from layersmith.refitting import methods
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.methods.replace.to_cascaded_ffn import ToCascadedFFN


def test_one_chunk_is_the_nearest_mlp_and_two_beat_the_mean_output(view):
    at, method, mean = view("layers.1.ffn"), ToCascadedFFN(), methods.get("mean")
    at.holdout = at.fit
    one, two = (at.local_error(method.build(at, {"chunks": n})) for n in (1, 2))
    assert abs(one - at.local_error(at.as_replacement(nearest_mlp(at)))) < 1e-4
    assert one < two < at.local_error(mean.build(at, {}))
