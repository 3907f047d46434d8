"""Pattention from a trained feed-forward: better than a linear map although it rescales every token."""

import pytest
import torch

from layersmith.refitting import methods


def test_beats_the_linear_map(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    method = methods.get("pattention")
    error = at.local_error(method.build(at, method.options(at)[0]))
    assert error < at.local_error(methods.get("linear").build(at, {}))


def test_keys_are_the_trained_rows_and_a_typical_token_keeps_its_scores(view):
    at = view("layers.1.ffn")
    ((_, part),) = methods.get("pattention").build(at, {"theta": "l2_norm_gelu"})
    part = next(m for m in part.modules() if hasattr(m, "keys") and hasattr(m, "tau"))
    gate = at.ffn.operator.gate.weight
    assert torch.equal(part.keys, gate)
    scores = (at.inputs @ gate.T).norm(dim=-1).mean()
    assert part.tau * 1.702 == pytest.approx(scores.item(), rel=1e-3)
