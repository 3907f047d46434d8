"""Every construction keeps its claims, fails them with one weight wrong, and comes back from disk as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from layersmith.errors import UserError
from layersmith.explaining.constructions import CONSTRUCTIONS, get
from layersmith.explaining.constructions.constructing import construct, load_construction
from layersmith.explaining.constructions.construction import Claim, Result

#: Small settings of each, and the map whose first weight is turned around as a planted fault.
CASES: dict[str, tuple[dict[str, object], str]] = {
    "gradient_descent": ({}, "layers.parts.0.o.weight"),
    "mesa_regression": ({}, "mixer.v.weight"),
    "parity": ({"n": 60}, "layers.parts.1.down.weight"),
    "first": ({"n": 200}, "layers.parts.1.v.weight"),
    "induction_head": ({"tokens": 64, "symbols": 8}, "layers.1.mixer.q.weight"),
    "gated_rnn": ({"d": 4}, "multiply.weight"),
    "connectivity": ({"nodes": 32}, "layers.0.v.weight"),
    "sparse_averages": ({}, "head.v.weight"),
    "newton": ({}, "layers.parts.0.o.weight"),
    "facts": ({"subjects": 64}, "ffn.up.bias"),
    "k_parity": ({"n": 16, "k": 4}, "layers.parts.1.down.weight"),
    "versatile": ({}, "layers.parts.0.o.weight"),
    "one_step": ({}, "layers.parts.0.q.weight"),
    "regression_mixture": ({}, "square.down.weight"),
    "match2": ({"numbers": 32}, "head.q.weight"),
    "automaton": ({"n": 30, "things": 4}, "look_up.down.weight"),
    "next_step": ({}, "mixer.k.weight"),
    "permutations": ({"tokens": 1500}, "keys"),
    "order": ({"n": 20, "strings": 30}, "layers.parts.0.o.weight"),
    "associative_memory": ({"patterns": 20, "d": 64}, "head.v.weight"),
    "attention_svm": ({"examples": 3, "tokens": 4, "steps": 1000}, "head.q.weight"),
    "memorization": ({"n": 25}, "maps.2.weight"),
    "prompted_machine": ({"bits": 4, "inputs": 5}, "read.v.weight"),
    "scan_and_snap": ({"classes": 3, "steps": 1000}, "head.k.weight"),
    "relu_symmetries": ({"inputs": 2, "width": 3, "layers": 2}, "one.0.weight"),
    "task_vectors": ({}, "tuned.1.up.weight"),
    "program": ({"letters": 3, "steps": 300}, "layers.1.0.predicate"),
    "random_networks": ({"networks": 6, "width": 24}, "small.1"),
    "arithmetic": ({"operators": 3, "inputs": 4}, "back1.k.weight"),
    "boltzmann": ({"words": 5}, "head.v.weight"),
    "exchangeable": ({"bits": 8}, "head.o.weight"),
    "softmax_regression": ({}, "head.k.weight"),
    "primality": ({"n": 100}, "maps.1.weight"),
    "collapse": ({"longest": 1024}, "layers.parts.0.k.weight"),
    "deep_descent": ({"steps": 2}, "layers.parts.0.down.weight"),
}


def build(name: str) -> tuple[dict[str, object], nn.Module]:
    settings = get(name).settled(CASES[name][0])
    return settings, get(name).build(settings)


def test_every_construction_is_tried_here() -> None:
    assert set(CASES) == set(CONSTRUCTIONS)
    assert all(get(name).name == name for name in CONSTRUCTIONS)


@pytest.mark.parametrize("name", CASES)
def test_every_claim_holds_and_limits_are_stated(name: str) -> None:
    settings, module = build(name)
    results = get(name).prove(settings, module)
    assert {r.claim.what: r.measured for r in results if not r.holds} == {}
    assert {r.claim.limit for r in results} == {True, False}
    assert all(p.dtype == torch.float64 for p in module.parameters())


@pytest.mark.parametrize("name", CASES)
def test_one_wrong_weight_is_found_out(name: str) -> None:
    settings, module = build(name)
    weight = module.get_parameter(CASES[name][1]).data
    first = tuple(weight.nonzero()[0].tolist())
    weight[first] = -weight[first]
    results = get(name).prove(settings, module)
    assert any(not r.holds for r in results if not r.claim.limit)


@pytest.mark.parametrize("name", CASES)
def test_it_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    built = construct(name, CASES[name][0], tmp_path / "saved")
    loaded = load_construction(tmp_path / "saved")
    assert built.holds
    for key, tensor in built.module.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key]), key
    wanted = {"construction.json", "model.safetensors"} | ({"program.py"} if built.source is not None else set())
    assert {file.name for file in (tmp_path / "saved").iterdir()} == wanted


def test_loaded_weights_are_those_of_the_file(tmp_path: Path) -> None:
    built = construct("first", {"n": 20})
    built.module.layers.parts[1].v.weight.data.mul_(3)
    built.save(tmp_path)
    bits = torch.tensor([[1, 0, 0]])
    assert torch.equal(load_construction(tmp_path)(bits), built.module(bits))
    assert not torch.equal(get("first").build(built.settings)(bits), built.module(bits))


def test_what_is_no_construction_is_refused_when_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no construction"):
        load_construction(tmp_path)
    construct("first", {"n": 20}, tmp_path)
    record = tmp_path / "construction.json"
    record.write_text(
        record.read_text().replace('"name": "first"', '"name": "parity"').replace('"log_length"', '"strings"')
    )
    with pytest.raises(UserError):
        load_construction(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no construction"):
        load_construction(tmp_path)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no construction"):
        construct("first", {"n": 20}, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"nn": 3}, "no setting 'nn'. Did you mean 'n'"),
        ({"n": "many"}, "whole number from 4 to 20000, not 'many'"),
        ({"n": 2.5}, "whole number"),
        ({"n": 3}, "from 4 to 20000, not 3"),
        ({"n": True}, "whole number"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        get("parity").settled(given)


@pytest.mark.parametrize("given", [{"rate": "nan"}, {"rate": "inf"}, {"rate": 0}])
def test_numbers_out_of_bounds_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match="rate takes a number from"):
        get("gradient_descent").settled(given)


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UserError, match="k=9"):
        get("k_parity").settled({"n": 8, "k": 9})
    with pytest.raises(UserError, match="q=9"):
        get("sparse_averages").settled({"items": 8, "q": 9})


def test_a_construction_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'parity'"):
        get("paritty")


@pytest.mark.parametrize(
    ("measured", "bounds", "holds"),
    [
        (1.0, {"most": 1.0}, True),
        (1.1, {"most": 1.0}, False),
        (1.0, {"least": 1.0}, True),
        (0.9, {"least": 1.0}, False),
        (math.nan, {"most": 1.0}, False),
        (math.nan, {"least": 1.0}, False),
        (math.inf, {"least": 1.0}, True),
    ],
)
def test_a_result_holds_within_its_bound_alone(measured: float, bounds: dict[str, float], holds: bool) -> None:
    assert Result(Claim("a", "b", lambda m: 0.0, **bounds), measured).holds is holds


@pytest.mark.parametrize("bounds", [{}, {"most": 1.0, "least": 0.0}])
def test_a_claim_has_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="one bound"):
        Claim("a", "b", lambda m: 0.0, **bounds)
