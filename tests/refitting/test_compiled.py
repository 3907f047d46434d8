"""Both models under torch.compile, measured apart from what decides about the budget."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from layersmith.measuring.shape import parse_shape
from layersmith.refitting.prove import compiled
from layersmith.refitting.prove.compiled import measure_compiled
from tests.refitting.conftest import tiny_llama


@pytest.fixture
def models():
    original = tiny_llama(layers=2).eval().requires_grad_(False)
    return original, copy.deepcopy(original)


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the compiler, which takes a minute: counts what goes through it."""
    seen = []

    def compile(forward):
        def run(*args, **kwargs):
            seen.append(forward)
            return forward(*args, **kwargs)

        run.__signature__ = __import__("inspect").signature(forward)
        return run

    monkeypatch.setattr(torch, "compile", compile)
    return seen


@pytest.mark.parametrize("shape", ["prefill=1x8", "decode=1x8"])
def test_both_go_through_the_compiler_and_their_eager_forms_do_not(models, calls, shape):
    original, refitted = models
    before = torch._dynamo.config.recompile_limit
    found = measure_compiled(original, refitted, parse_shape(shape), rounds=2)
    assert set(found) == {"original", "refitted"}
    assert found["original"]["latency_ratio"] == 1
    compiled_calls = {forward: calls.count(forward) for forward in calls}
    assert compiled_calls.keys() == {original.forward, refitted.forward}
    assert len(set(compiled_calls.values())) == 1, "as many rounds of one as of the other"
    assert "forward" not in vars(original), "the model itself is left as it was"
    assert torch._dynamo.config.recompile_limit == before


def test_a_model_that_does_not_compile_is_said(models, monkeypatch):
    def broken(forward):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    found = measure_compiled(*models, parse_shape("prefill=1x8"), rounds=2)
    assert found == {"refused": "original: RuntimeError: no compiler here"}


@pytest.mark.real
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_real_compiler_gives_the_same_model(models):
    found = measure_compiled(*models, parse_shape("prefill=1x8"), rounds=2)
    assert found["refitted"]["compile_seconds"] > 0
    assert found["refitted"]["eager_ratio"] > 0


def test_more_graphs_than_torchs_own_limit():
    assert compiled.GRAPHS > 8
