"""Folds at the end of a run: kept where they pay, decided once, and saved with the model."""

import copy

import pytest
import torch
from torch import nn

from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.edit import apply, combined
from layersmith.checkpoint import load, save
from layersmith.ffn.mlp import MLP
from layersmith.measuring.shape import Shape
from layersmith.refitting.prove.folding import fold_where_it_pays
from layersmith.runs.workspace import Workspace
from tests.anatomy.families import BY_NAME

SHAPE = Shape("prefill", 1, 16)


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "run", {})
    yield made
    made.close()


def test_a_linear_feed_forward_is_merged_saved_and_not_decided_twice(workspace, tmp_path):
    model = BY_NAME["llama"].model().requires_grad_(False)
    inputs = BY_NAME["llama"].inputs()
    site = find_sites(model).site("layers.0.ffn")
    replacement = replacement_for(
        model, site, MLP(site.d_model, 4 * site.d_model, act="identity").requires_grad_(False)
    )
    apply(model, replacement)
    expected, twin = model(**inputs).logits, copy.deepcopy(model)
    records, edits = fold_where_it_pays(model, SHAPE, workspace, "mix")
    by_name = {r["name"]: r for r in records}
    assert not by_name["pre_rms_norm"]["kept"]
    assert "not a LayerNorm" in by_name["pre_rms_norm"]["reason"]
    assert by_name["linear_merge"]["kept"]
    assert by_name["linear_merge"]["params"] < 1
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in twin.parameters())
    save(model, combined([edit for edit, _ in replacement], edits), tmp_path / "saved")
    again, _ = load(str(tmp_path / "saved"))
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, rtol=0, atol=0)
    same, same_edits = fold_where_it_pays(
        twin, SHAPE, workspace, "mix"
    )  # a resumed run: decisions are read, folds made anew
    assert (same, same_edits) == (records, edits)
    torch.testing.assert_close(twin(**inputs).logits, model(**inputs).logits, rtol=0, atol=0)


def test_a_fold_that_would_store_the_embedding_twice_is_left_with_the_reason(workspace):
    model = BY_NAME["gpt2"].model().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    records, edits = fold_where_it_pays(model, SHAPE, workspace, "mix")
    assert edits == []
    assert "params and bytes would grow" in records[0]["reason"]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert isinstance(model.transformer.ln_f, nn.LayerNorm)
