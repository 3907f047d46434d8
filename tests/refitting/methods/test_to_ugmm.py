"""Mixture units with a fitted read-out: no worse than the mean on the data of the fit, and the same every time."""

import torch

from layersmith.refitting import methods


def test_beats_the_mean_and_is_deterministic(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    method = methods.get("ugmm")
    first, second = (method.build(at, {"units": 24}) for _ in range(2))
    assert at.local_error(first) < at.local_error(methods.get("mean").build(at, {}))
    a, b = first[0][1].state_dict(), second[0][1].state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
