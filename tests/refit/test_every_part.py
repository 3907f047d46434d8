"""Every feed-forward and norm of the catalogue, put into one layer of a real model from its trained weights."""

from __future__ import annotations

import math

import pytest
import torch

import layersmith
from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.edit import apply, restore
from layersmith.contract import Operator
from layersmith.refit import methods
from layersmith.refit.batches import Sizes, prepare
from layersmith.refit.calibrate import Activations
from layersmith.refit.distill import distill
from layersmith.refit.workspace import Workspace

pytestmark = pytest.mark.real

LAYER = 3
BUILDING = [n for n in methods.METHODS if methods.get(n).builds and {"ffn", "norm"} & set(methods.get(n).kinds)]


@pytest.fixture(scope="module", params=["pocket", "smollm2"])
def prepared(request, tmp_path_factory):
    """The model, a batch, and its activations on a little text."""
    source = "pocket" if request.param == "pocket" else str(request.getfixturevalue("smollm2_path"))
    model, tokenizer = layersmith.load(source)
    model.eval().requires_grad_(False)
    batches = prepare(model, tokenizer, "stdlib", Sizes(length=256, per_batch=4, calibration=16, heal=0), seed=0)
    anatomy = find_sites(model)
    workspace = Workspace(tmp_path_factory.mktemp(request.param) / "run", {})
    activations = Activations(Replay(model, anatomy), anatomy, batches, workspace)
    activations.calibrate()
    yield model, batches.report[0], activations
    workspace.close()


@pytest.mark.parametrize("name", BUILDING)
def test_it_can_be_put_into_one_layer(prepared, name):
    model, batch, activations = prepared
    method = methods.get(name)
    kind = "ffn" if "ffn" in method.kinds else "norm"
    site = activations.anatomy.site(f"layers.{LAYER}.{'ffn' if kind == 'ffn' else 'ffn_norm'}")
    channels = torch.linspace(-1, 1, model.config.intermediate_size)
    view = activations.view(site, statistics={"taylor": channels})
    reason = method.refuses(view)
    if reason is not None:
        pytest.skip(reason)
    replacement = method.build(view, method.grid(view)[0])
    start = view.local_error(replacement)
    distill(view, replacement, steps=3)
    assert math.isfinite(start)
    assert view.local_error(replacement) <= start, "distillation keeps the best state"
    before = apply(model, replacement)
    try:
        with torch.no_grad():
            logits = model(**batch).logits
    finally:
        restore(model, before)
    assert torch.isfinite(logits).all()
    part = replacement[0][1]
    if len(replacement) == 1 and isinstance(part, Operator) and part.family in ("ffn", "norm"):
        with layersmith.swap(model, {site.name: part}), torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, logits, rtol=0, atol=0)
