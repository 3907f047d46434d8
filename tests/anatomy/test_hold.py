"""Swaps that are entered, left or nested in ways that could leave a stranger in the model."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from layersmith.anatomy import edit as edits
from layersmith.anatomy import find_sites, swap
from layersmith.anatomy.edit import Edit
from layersmith.errors import UserError
from layersmith.ffn.zero import Zero
from tests.anatomy.families import BY_NAME


@pytest.mark.parametrize("wrong", [None, "zero", Zero, torch.zeros(2)])
def test_what_is_no_module_is_refused_before_anything_is_changed(wrong: Any) -> None:
    model = BY_NAME["llama"].model()
    modules = dict(model.named_modules())
    with (
        pytest.raises(UserError, match=r"not a torch.nn.Module"),
        swap(model, {"layers.0.attn": Zero(32), "layers.0.ffn": wrong}),
    ):
        pass
    assert dict(model.named_modules()) == modules
    with pytest.raises(UserError, match=r"not a torch.nn.Module"):
        edits.apply(model, [(Edit("model.layers.0.mlp", {}, {}), wrong)])
    assert dict(model.named_modules()) == modules


def test_nested_swaps_end_in_order() -> None:
    model = BY_NAME["llama"].model()
    anatomy = find_sites(model)
    modules = dict(model.named_modules())
    with swap(model, {"layers.0.ffn": Zero(32)}, anatomy):
        with swap(model, {"layers.0.ffn": nn.Identity()}, anatomy):
            assert isinstance(model.model.layers[0].mlp, nn.Identity)
        assert isinstance(model.model.layers[0].mlp, Zero)
    assert dict(model.named_modules()) == modules


def test_a_swap_that_ends_too_early_undoes_both_and_says_so() -> None:
    model = BY_NAME["llama"].model()
    anatomy = find_sites(model)
    modules = dict(model.named_modules())
    first = swap(model, {"layers.0.ffn": Zero(32)}, anatomy)
    second = swap(model, {"layers.0.ffn": nn.Identity()}, anatomy)
    first.__enter__()
    second.__enter__()
    with pytest.raises(UserError, match="reverse of their order"):
        first.__exit__(None, None, None)
    assert dict(model.named_modules()) == modules
    second.__exit__(None, None, None)
    assert dict(model.named_modules()) == modules
    with swap(model, {"layers.0.ffn": Zero(32)}, anatomy):
        assert isinstance(model.model.layers[0].mlp, Zero)
    assert dict(model.named_modules()) == modules


def test_another_thread_is_refused_and_another_model_is_not() -> None:
    model = BY_NAME["llama"].model()
    other = copy.deepcopy(model)
    anatomy = find_sites(model)
    modules = dict(model.named_modules())
    said: dict[str, str] = {}

    def meddle() -> None:
        for name, target in (("same", model), ("other", other)):
            try:
                with swap(target, {"layers.0.ffn": nn.Identity()}, anatomy):
                    said[name] = "swapped"
            except UserError as error:
                said[name] = str(error)

    with swap(model, {"layers.0.ffn": Zero(32)}, anatomy):
        thread = threading.Thread(target=meddle)
        thread.start()
        thread.join()
        assert isinstance(model.model.layers[0].mlp, Zero)
    assert "Another thread" in said["same"]
    assert said["other"] == "swapped"
    assert dict(model.named_modules()) == modules


def of_shared_layers(model: Any) -> Any:
    other = copy.deepcopy(model)
    other.model.layers = model.model.layers
    return other


@pytest.mark.parametrize("reached", [lambda m: m.model, torch.compile, of_shared_layers])
def test_a_model_has_one_owner_whatever_it_is_reached_by(reached: Any) -> None:
    model = BY_NAME["llama"].model()
    modules, other = dict(model.named_modules()), reached(model)
    anatomy, sites = find_sites(other), find_sites(model)
    first = swap(model, {"layers.1.ffn": Zero(32)}, sites)
    second = swap(other, {"layers.1.ffn": nn.Identity()}, anatomy)
    first.__enter__()
    second.__enter__()
    with pytest.raises(UserError, match="reverse of their order"):
        first.__exit__(None, None, None)
    assert dict(model.named_modules()) == modules
    second.__exit__(None, None, None)
    said = []

    def meddle() -> None:
        try:
            with swap(other, {"layers.1.ffn": nn.Identity()}, anatomy):
                pass
        except UserError as error:
            said.append(str(error))

    with swap(model, {"layers.1.ffn": Zero(32)}, sites):
        thread = threading.Thread(target=meddle)
        thread.start()
        thread.join()
        with swap(other, {"layers.0.ffn": nn.Identity()}, anatomy):
            assert isinstance(model.model.layers[0].mlp, nn.Identity)
        assert isinstance(model.model.layers[1].mlp, Zero)
    assert "Another thread" in said[0]
    assert dict(model.named_modules()) == modules


def test_a_swap_inside_another_knows_its_sites() -> None:
    """A feed-forward that is zero could not be found again."""
    model = BY_NAME["llama"].model()
    with swap(model, {"layers.0.ffn": Zero(32)}), swap(model, {"layers.0.ffn": nn.Identity()}):
        assert isinstance(model.model.layers[0].mlp, nn.Identity)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_after_any_exception(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the swap, and while it is being made."""
    model = BY_NAME["bert"].model()
    anatomy = find_sites(model)
    modules = dict(model.named_modules())
    with pytest.raises(error), swap(model, {"layers.0.ffn": Zero(32)}, anatomy):
        raise error

    def fail(new: nn.Module, old: nn.Module) -> None:
        raise error

    monkeypatch.setattr(edits, "take_over", fail)
    with pytest.raises(error), swap(model, {"layers.0.ffn": Zero(32)}, anatomy):
        pass
    assert dict(model.named_modules()) == modules


def test_what_can_be_put_back_is_although_part_of_the_model_is_gone() -> None:
    model = BY_NAME["llama"].model()
    anatomy = find_sites(model)
    mlp = model.model.layers[0].mlp
    with (
        pytest.raises(UserError, match="no module at"),
        swap(model, {"layers.0.ffn": Zero(32), "layers.1.ffn": Zero(32)}, anatomy),
    ):
        del model.model.layers[1].mlp
    assert model.model.layers[0].mlp is mlp


def test_a_forgotten_model_is_not_kept_alive() -> None:
    """Its weights are free at once, before anything is collected."""
    model = BY_NAME["llama"].model()
    with swap(model, {"layers.0.ffn": Zero(32)}):
        pass
    alive = weakref.ref(model.model.embed_tokens.weight)
    gc.disable()
    try:
        del model
        assert alive() is None
    finally:
        gc.enable()
