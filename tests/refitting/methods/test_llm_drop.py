"""Sublayers dropped by how little they turn the stream: the score by hooks on the whole model, a planted one first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from layersmith.anatomy import Replay, find_sites
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.methods.drop.llm_drop import importance
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_batches, tiny_llama

LAYERS = 4


@pytest.fixture(scope="module")
def model():
    made = tiny_llama(layers=LAYERS).requires_grad_(False)
    made.model.layers[2].self_attn.o_proj.weight.zero_()
    return made


@pytest.fixture(scope="module")
def activations(model, tmp_path_factory):
    anatomy = find_sites(model)
    workspace = Workspace(tmp_path_factory.mktemp("drop") / "run", {})
    found = Activations(Replay(model, anatomy), anatomy, tiny_batches(), workspace)
    found.calibrate()
    return found


def by_hooks(model, batches):
    """{site: 1 - mean cosine} over all tokens, from what enters and leaves the sublayers' places in the whole model."""
    streams = {}

    def keep(name):
        return lambda module, args, out: streams.setdefault(name, []).append(
            (args[0], out if isinstance(out, torch.Tensor) else out[0])
        )

    hooks = []
    for i, layer in enumerate(model.model.layers):
        hooks.append(layer.register_forward_hook(keep(f"layer {i}")))
        hooks.append(layer.post_attention_layernorm.register_forward_hook(keep(f"between {i}")))
    for batch in batches:
        model(**batch)
    for hook in hooks:
        hook.remove()
    found = {}
    for i in range(LAYERS):
        whole, between = streams[f"layer {i}"], [pair[0] for pair in streams[f"between {i}"]]
        pairs = {"attn": [(a, b) for (a, _), b in zip(whole, between, strict=True)]}
        pairs["ffn"] = [(b, c) for (_, c), b in zip(whole, between, strict=True)]
        for kind, each in pairs.items():
            scores = [1 - F.cosine_similarity(x.double(), y.double(), dim=-1).flatten() for x, y in each]
            found[f"layers.{i}.{kind}"] = float(torch.cat(scores).mean())
    return found


@torch.no_grad()
def test_the_score_is_that_of_the_stream_before_and_after(model, activations):
    want = by_hooks(model, tiny_batches().fit)
    sites = [s for s in activations.anatomy.sites if s.kind in ("mixer", "ffn")]
    assert {site.name for site in sites} == want.keys()
    for site in sites:
        view, method = activations.view(site, 0), methods.get("llm_drop")
        reason = method.unsupported_reason(view)
        assert (reason is not None) == (site.name == f"layers.{LAYERS - 1}.ffn")
        if reason is None:
            assert importance(view) == pytest.approx(want[site.name], rel=1e-3, abs=1e-7)
            assert method.options(view) == [{"importance": pytest.approx(want[site.name], rel=1e-3, abs=1e-7)}]
    assert abs(want["layers.2.attn"]) < 1e-7 < min(want[f"layers.{i}.attn"] for i in (0, 1, 3))


def test_the_least_important_go_first_and_nothing_is_measured():
    drawn = {"a": 0.3, "b": 0.0, "c": 0.1}
    candidates = [SimpleNamespace(site=site, settings={"importance": s}) for site, s in drawn.items()]

    def harm(mix):
        raise AssertionError("the rule goes by its score alone")

    found = [(asked, [c.site for c in mix]) for asked, mix in methods.get("llm_drop").rungs(candidates, harm)]
    assert found == [({"sites": 1}, ["b"]), ({"sites": 2}, ["b", "c"]), ({"sites": 3}, ["b", "c", "a"])]


def test_what_is_dropped_is_what_drop_drops(activations):
    view = activations.view(activations.anatomy.site("layers.1.attn"), 0)
    ours, theirs = (methods.get(name).build(view, settings) for name, settings in (("llm_drop", {}), ("drop", {})))
    assert [edit for edit, _ in ours] == [edit for edit, _ in theirs]
    assert len(ours) == 2, "the sublayer and its norm"


def test_streams_that_were_not_kept_are_said(activations):
    view = activations.view(activations.anatomy.site("layers.1.attn"), 0)
    view.streams = 0
    assert "cannot be run alone" in methods.get("llm_drop").unsupported_reason(view)
