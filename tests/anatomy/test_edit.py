"""Edits: applied in order, undone exactly, and strict about what they are given."""

import pytest
import torch
from torch import nn

from layersmith.anatomy.edit import Edit, apply, build_module, restore
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from layersmith.ffn.zero import Zero


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(GLU(4, 8), nn.Sequential(GLU(4, 8), nn.Linear(4, 4)))


def edit(path, module):
    return Edit(path, module.spec(), {}), module


def test_apply_and_restore(model):
    x = torch.randn(3, 4)
    before, modules = model(x), list(model.modules())
    undo = apply(model, [edit("0", Zero(4)), edit("1.0", GLU(4, 2))])
    assert not torch.equal(model(x), before)
    restore(model, undo)
    assert list(model.modules()) == modules
    assert torch.equal(model(x), before)


def test_an_edit_may_replace_a_part_of_an_earlier_one(model):
    original = model[0]
    down = original.down
    new, inner = GLU(4, 2), nn.Linear(2, 4)
    undo = apply(model, [edit("0", new), (Edit("0.down", {}, {}), inner)])
    assert model[0] is new
    assert model[0].down is inner
    restore(model, undo)
    assert model[0] is original
    assert original.down is down


@pytest.mark.parametrize("path", ["2", "", "0.gate.weight", "../0", "1.0.", "forward"])
def test_an_unknown_path_leaves_the_model_as_it_was(model, path):
    modules = list(model.modules())
    with pytest.raises(UserError, match="no module at"):
        apply(model, [edit("0", Zero(4)), edit(path, Zero(4))])
    assert list(model.modules()) == modules


def test_two_edits_of_one_path_are_refused(model):
    modules = list(model.modules())
    with pytest.raises(UserError, match="both replace"):
        apply(model, [edit("0", Zero(4)), edit("0", Zero(4))])
    assert list(model.modules()) == modules


def test_an_unknown_convention_leaves_the_model_as_it_was(model):
    modules = list(model.modules())
    with pytest.raises(UserError, match="calling convention"):
        apply(model, [edit("0", Zero(4)), (Edit("1", {}, {"style": "no such"}), Zero(4))])
    assert list(model.modules()) == modules


def test_json_round_trip_and_building():
    made = Edit("1.0", GLU(4, 2, act="relu").spec(), {})
    assert Edit.from_json(made.to_json()) == made
    assert build_module(made).spec() == made.spec
    with pytest.raises(UserError, match="trust"):
        build_module(Edit("0", {"name": "os:path"}, {}))


@pytest.mark.parametrize("data", [None, [], {}, {"path": 3, "spec": {}}, {"path": "a", "spec": {}, "call": "b"}])
def test_damaged_json_is_refused(data):
    with pytest.raises(UserError, match="An edit has"):
        Edit.from_json(data)
