"""The certified feed-forward starts as the ridge map, with the map's norm as its bound."""

import pytest
import torch

from layersmith.ffn.lipschitz_ffn import LipschitzFFN
from layersmith.refitting import methods
from layersmith.refitting.methods.least_squares import ridge


@pytest.mark.parametrize("slack", [1.0, 2.0])
def test_starts_as_the_linear_map(view, slack):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    replacement = methods.get("lipschitz_ffn").build(at, {"slack": slack})
    linear = at.local_error(methods.get("linear").build(at, {}))
    assert at.local_error(replacement) == pytest.approx(linear, rel=1e-3)
    part = next(m for _, stand_in in replacement for m in stand_in.modules() if isinstance(m, LipschitzFFN))
    weight, _ = ridge(at.inputs, at.targets)
    assert part.gamma == pytest.approx(slack * float(torch.linalg.svdvals(weight)[0]), rel=1e-3)
