"""The checks of schemes have teeth: each planted fault fails the check that is about it."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from layersmith.check import SCHEME_CHECKS, check
from layersmith.contract import Scheme
from layersmith.scheme.norm_place import NormPlace
from layersmith.scheme.shared.edits import layers_of, reference, set_residual

COUNTER = itertools.count()


class Quiet(Scheme):
    """Branches so weak that the stream keeps its size: healthy."""

    expected: ClassVar[dict[str, tuple[float, float]]] = {"activation": (0.9, 1.1)}

    def __init__(self, branch: float = 0.01):
        if not 0 <= branch < math.inf:
            raise ValueError(f"branch must be at least 0, not {branch}")
        self.branch = branch

    def apply(self, model: nn.Module) -> None:
        lm = reference(model, "Quiet")
        for index in range(len(lm.layers)):
            set_residual(lm, index, (1.0, self.branch), (1.0, self.branch))


class Unsaved(Quiet):
    def apply(self, model: nn.Module) -> None:
        for layer in layers_of(reference(model, "Unsaved")):
            layer.mixer_factors = layer.ffn_factors = (1.0, self.branch)


class Promises(Quiet):
    expected: ClassVar[dict[str, tuple[float, float]]] = {"activation": (5.0, 6.0)}


class TrivialPromise(Quiet):
    expected: ClassVar[dict[str, tuple[float, float]]] = {"activation": (0.0, 1e9)}


class NoPromise(Quiet):
    expected: ClassVar[dict[str, tuple[float, float]]] = {}


class Forgets(Quiet):
    def learning_rates(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters())[1:], "lr": lr}]


class FixedRate(Quiet):
    def learning_rates(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "lr": 1e-3}]


class Accepts(Quiet):
    def __init__(self, branch: float = 0.01):
        self.branch = branch


class Swallows(Quiet):
    def __init__(self, **anything: float):
        self.branch = 0.01


class OtherEveryTime(Quiet):
    def apply(self, model: nn.Module) -> None:
        torch.manual_seed(next(COUNTER))
        nn.init.normal_(reference(model, "OtherEveryTime").embed_tokens.weight)


class OtherName(Quiet):
    name = "norm_place"


class BreaksDecoding(Quiet):
    def apply(self, model: nn.Module) -> None:
        for layer in layers_of(reference(model, "BreaksDecoding")):
            layer.norm = _MeanOverTokens()


class _MeanOverTokens(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(1, keepdim=True)


FAULTS: dict[type[Scheme], str] = {
    Unsaved: "saves",
    Promises: "keeps_its_promise",
    TrivialPromise: "keeps_its_promise",
    NoPromise: "keeps_its_promise",
    Forgets: "learning_rates",
    FixedRate: "learning_rates",
    Accepts: "refuses_bad_config",
    Swallows: "plain_constructor",
    OtherEveryTime: "deterministic",
    OtherName: "spec_round_trip",
    BreaksDecoding: "generates",
}


@pytest.mark.parametrize("scheme", FAULTS, ids=lambda s: s.__name__)
def test_a_fault_is_found(scheme: type[Scheme]) -> None:
    (result,) = check(scheme, {"branch": 0.01}, only=(FAULTS[scheme],))
    assert not result.passed, result.detail


def test_the_healthy_one_passes_and_every_check_has_a_fault() -> None:
    assert [f"{r.check}: {r.detail}" for r in check(Quiet, {"branch": 0.01}) if not r.passed] == []
    assert set(FAULTS.values()) == set(SCHEME_CHECKS)


def test_names_of_the_users_own_classes_are_told_apart() -> None:
    assert NormPlace.family == "scheme"
    assert check("tests.check.test_scheme_checks:Quiet", only=("saves",))[0].passed
