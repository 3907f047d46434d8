"""Norms for norms: exact where the target can be the original, and no worse than the mean where it cannot."""

import pytest
import torch

from layersmith.refitting import methods

SITE = "layers.1.ffn_norm"


def test_an_rms_norm_comes_back_as_it_was(view):
    at = view(SITE)
    assert at.local_error(methods.get("rms_norm").build(at, {"bias": False})) < 1e-10


@pytest.mark.parametrize("name", ["layer_norm", "crms_norm", "prep_bn"])
def test_fitted_norms_beat_the_mean_of_the_outputs(name, view):
    at = view(SITE)
    at.holdout = at.fit
    mean = at.targets - at.targets.mean(0)
    floor = float(mean.square().sum() / at.targets.square().sum())
    assert at.local_error(methods.get(name).build(at, {} if name != "crms_norm" else {"bias": True})) < 0.5 * floor


def test_prep_bn_is_the_least_squares_line_of_every_channel(view):
    at = view(SITE)
    ((_, part),) = methods.get("prep_bn").build(at, {})
    x, y = at.inputs.double(), at.targets.double()
    for channel in (0, 7):
        design = torch.stack((x[:, channel], torch.ones(len(x), dtype=torch.double)), 1)
        slope, constant = torch.linalg.lstsq(design, y[:, channel, None]).solution[:, 0]
        factor, offset = (t[channel] for t in part.as_affine())
        assert factor.item() == pytest.approx(slope.item(), rel=1e-3)
        assert offset.item() == pytest.approx(constant.item(), rel=1e-3, abs=1e-5)
