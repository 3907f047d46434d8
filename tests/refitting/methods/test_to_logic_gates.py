"""Random gates with fitted outputs: a least-squares fit cannot be worse than the mean on its own data."""

from layersmith.refitting import methods


def test_is_no_worse_than_the_mean_on_the_data_of_the_fit(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    error = at.local_error(methods.get("logic_gates").build(at, {"neurons": 8}))
    assert error < at.local_error(methods.get("mean").build(at, {}))
