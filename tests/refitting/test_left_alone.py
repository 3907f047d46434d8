"""A model that somebody hands over is theirs: whatever is asked about it, and however that ends, it is as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import layersmith
from layersmith.checkpoint import verify
from layersmith.errors import UserError
from tests.architectures.sweep import _reloaded_here
from tests.refitting.conftest import tiny_llama

QUICK = {"at": "prefill=1x16", "heal_tokens": 1024, "distill_steps": 1, "effort": 0.01, "progress": False}


def refit(model: Any, given: dict[str, Any], out: Path) -> None:
    layersmith.refit(model, budget={"params": 0.97}, methods=["width", "drop"], out=out, **given, **QUICK)


def refused(model: Any, given: dict[str, Any], out: Path) -> None:
    layersmith.refit(model, budget={"params": 0.9}, methods=["kv_merge"], out=out, **given, **QUICK)


def measure(model: Any, given: dict[str, Any], out: Path) -> None:
    layersmith.measure(model, at=["prefill=1x8", "decode=1x8"], windows=1, length=64, rounds=1, **given)


def measure_against(model: Any, given: dict[str, Any], out: Path) -> None:
    layersmith.measure(tiny_llama(layers=1), model, at="prefill=1x8", windows=1, length=64, rounds=1, **given)


def sites(model: Any, given: dict[str, Any], out: Path) -> None:
    layersmith.sites(model)


def explain(model: Any, given: dict[str, Any], out: Path) -> None:
    layersmith.explain(model, out=out, tokens=512, progress=False, **given)


def facts(model: Any) -> dict[str, Any]:
    return {
        "training": {name: module.training for name, module in model.named_modules()},
        "trainable": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modules": {name: id(module) for name, module in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("asked", [refit, refused, measure, measure_against, sites, explain], ids=lambda f: f.__name__)
def test_the_callers_model_is_as_it_was(
    asked: Callable[..., None], tmp_path: Path, text: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training mode, a block of it not; with gradients, a matrix without; and with gradients accumulated."""
    monkeypatch.setattr(verify, "_run", _reloaded_here)
    model = tiny_llama(layers=2).requires_grad_(True).train()
    model.model.layers[0].eval()
    model.model.layers[1].mlp.up_proj.weight.requires_grad_(False)
    model.model.norm.weight.grad = torch.ones(32)
    model.config.use_cache = False
    before, weights = facts(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with suppress(UserError):
        asked(model, {"data": Path(text), "tokenizer": tokenizer}, tmp_path / "run")
    assert facts(model) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model.model.norm.weight.grad, torch.ones(32))
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["model.norm.weight"]
    assert pickle.dumps(model), "the hooks by which transformers records hidden states must not end this"


@contextmanager
def doubles() -> Iterator[None]:
    """Of a program that computes in float64 unless it says otherwise."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CONTEXTS = {
    "doubles": doubles,
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.fixture(scope="module")
def given(text: str, tokenizer: Any) -> dict[str, Any]:
    return {"data": text, "tokenizer": tokenizer, "budget": {"params": 0.97}, "methods": ["width"], **QUICK}


@pytest.fixture(scope="module")
def outside(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return layersmith.refit(tiny_llama(layers=2), out=tmp_path_factory.mktemp("outside") / "run", **given)


@pytest.mark.parametrize("name", CONTEXTS)
def test_the_callers_contexts_do_not_matter(
    name: str, given: dict[str, Any], outside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside any of them a run heals, saves and comes to the figures that it comes to outside."""
    monkeypatch.setattr(verify, "_run", _reloaded_here)
    model = tiny_llama(layers=2)
    with CONTEXTS[name]():
        inside = layersmith.refit(model, out=tmp_path / "inside", **given)
        measured = layersmith.measure(model, at="decode=1x8", windows=1, rounds=1, data="random")
    assert inside["heal"]["curve"] == outside["heal"]["curve"]
    assert inside.refitted["divergence"] == outside.refitted["divergence"]
    assert measured.model["params"] == outside.original["params"]


@pytest.mark.parametrize("nothing", [5, [torch.nn.Linear(2, 2)], torch.nn.Linear])
def test_what_is_no_model_is_refused_in_words(nothing: Any, tmp_path: Path) -> None:
    for asked in (refit, measure, measure_against, sites, explain):
        with pytest.raises(UserError, match="A model is a torch module"):
            asked(nothing, {"data": "stdlib"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
