"""Budgets that no mix could meet are refused before anything is built, with the share that cannot be touched."""

from __future__ import annotations

import pytest

from layersmith.anatomy import find_sites
from layersmith.anatomy.head import with_head
from layersmith.errors import UserError
from layersmith.measuring.cost import model_cost
from layersmith.measuring.shape import Shape
from layersmith.refitting.pipeline import refit
from layersmith.refitting.score.reach import check_in_reach
from tests.anatomy.families import BY_NAME
from tests.architectures.every import EVERY
from tests.refitting.conftest import tiny_llama

AT = Shape("prefill", 1, 16)


def checked(model, **budget):
    check_in_reach(model, with_head(model, find_sites(model)), AT, budget)


def test_what_lies_outside_of_every_site_cannot_be_saved():
    """Of a tied Llama the embedding; by hand, and just above it a budget passes."""
    model = tiny_llama(layers=2)
    embedding = model.model.embed_tokens.weight.numel()
    least = embedding / sum(p.numel() for p in model.parameters())
    assert 0.8 < least < 0.95
    checked(model, params=least + 1e-6)
    with pytest.raises(UserError, match=rf"params={least:.3f} of the original"):
        checked(model, params=0.8)
    stored = model_cost(model, AT).weight_bytes
    checked(model, bytes=(4 * embedding + 64) / stored)  # a table of rotations beside it
    with pytest.raises(UserError, match=r"bytes=0\.1 cannot be met"):
        checked(model, bytes=0.1)
    for name in ("flops", "kv"):  # all of it is in sublayers, the head among them
        checked(model, **{name: 1e-4})


def test_a_head_that_is_not_tied_can_be_changed():
    model = BY_NAME["llama"].model()
    outside = model.model.embed_tokens.weight.numel() / sum(p.numel() for p in model.parameters())
    checked(model, params=outside + 1e-6)
    with pytest.raises(UserError, match="cannot be met by any method"):
        checked(model, params=outside - 1e-3)


@pytest.mark.parametrize("name", ["bert", "vit", "albert"])
def test_a_model_without_a_cache_has_none_to_save(name):
    """0 of 0 used to be "met"."""
    with pytest.raises(UserError, match=r"keeps no cache at prefill=1x16, so the budget kv=0\.5 says nothing"):
        checked(EVERY[name].model(), params=0.9, kv=0.5)


@pytest.mark.parametrize("name", ["llama", "t5", "mamba", "gemma3", "rwkv", "recurrent_gemma"])
def test_whatever_writes_has_one(name):
    checked(EVERY[name].model(), kv=1.0, params=1.0, bytes=1.0, flops=1.0)


def test_a_run_is_refused_before_it_stores_anything(tmp_path, text, tokenizer):
    asked = {"data": text, "tokenizer": tokenizer, "out": tmp_path / "run", "at": "prefill=1x16", "progress": False}
    for budget in ({"params": 1e-4}, {"bytes": 1e-4, "latency": 0.9}):
        with pytest.raises(UserError, match=r"cannot be met by any method.*Ask for more"):
            refit(tiny_llama(layers=2), budget=budget, **asked)
    assert not (tmp_path / "run").exists()
