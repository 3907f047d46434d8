"""Every feed-forward and norm of the catalogue, put into one layer of a real model by `refit`, from trained weights.

One run for each model builds them all, distils them briefly, and scores them beside the four floors.
"""

from __future__ import annotations

import math

import pytest
import torch

import layersmith
from layersmith.anatomy.edit import apply, restore
from layersmith.contract import Operator
from layersmith.data.text import read
from layersmith.refitting import methods
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.prove import finish as finishing
from layersmith.runs.workspace import Workspace

pytestmark = pytest.mark.real

SITES = ["layers.3.ffn", "layers.3.ffn_norm"]
BUILDING = [n for n in methods.METHODS if methods.get(n).builds and {"ffn", "norm"} & set(methods.get(n).kinds)]


@pytest.fixture(scope="module", params=["pocket", "smollm2"])
def finished(request, tmp_path_factory):
    """(model, a batch of text, the result, its workspace) of a run with all methods at one layer."""
    source = "pocket" if request.param == "pocket" else str(request.getfixturevalue("smollm2_path"))
    model, tokenizer = layersmith.load(source)
    out = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patched:
        # The weights of what was not worth a score are looked at here, and would be gone at the end.
        patched.setattr(finishing, "clear", lambda workspace, candidates: None)
        result = layersmith.refit(
            model,
            tokenizer=tokenizer,
            budget={"params": 0.999},
            methods=BUILDING,
            sites=SITES,
            at="prefill=1x64",
            distill_steps=3,
            heal_tokens=0,
            effort=0.02,
            out=out,
            progress=False,
        )
    batch = tokenizer("\n".join(read("stdlib", "heldout"))[:4000], return_tensors="pt")["input_ids"][:, :128]
    return model, batch, result, Workspace.joined(out)


def test_the_floors_stand_beside_them(finished):
    _, _, result, _ = finished
    site = next(s for s in result["sites"] if s["name"] == SITES[0])
    assert set(site["floors"]) == {"zero", "mean", "ridge_linear", "rank_r"}
    assert all(math.isfinite(floor["divergence"]) for floor in site["floors"].values())
    assert {s for c in result["candidates"] for s in c["sites"]} == set(SITES)
    assert result["reload_max_abs_diff"] <= 1e-4


@pytest.mark.parametrize("name", BUILDING)
def test_it_can_be_put_into_one_layer(finished, name):
    model, batch, result, workspace = finished
    found = [c for c in result["candidates"] if c["method"] == name]
    if not found:
        reasons = [result["refusals"][s][name] for s in SITES if name in result["refusals"].get(s, {})]
        assert reasons, "a method that builds nothing has to say why"
        return
    assert all(c["refused"] is None and math.isfinite(c["local_error"]) for c in found)
    library = Library(workspace, [])
    replacement = library.replacement(Candidate.from_json(workspace.load_json(f"library/{found[0]['id']}")))
    before = apply(model, replacement)
    try:
        with torch.no_grad():
            logits = model(input_ids=batch).logits
    finally:
        restore(model, before)
    assert torch.isfinite(logits).all()
    part = replacement[0][1]
    if len(replacement) == 1 and isinstance(part, Operator) and part.family in ("ffn", "norm"):
        with layersmith.swap(model, {found[0]["sites"][0]: part}), torch.no_grad():
            torch.testing.assert_close(model(input_ids=batch).logits, logits, rtol=0, atol=0)
