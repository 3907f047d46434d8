"""What is timed against each other is made alike: a copy against a copy."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

import layersmith
from layersmith.contract import Cost
from layersmith.measuring import compare
from layersmith.measuring.latency import model_step
from layersmith.refitting.prove import finish, folding
from layersmith.refitting.search import variants
from layersmith.refitting.search.choice import student
from layersmith.refitting.search.variants import clock_variant
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama
from tests.refitting.test_clocks import SHAPES, _no_change, copies


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_a_copy_is_timed_against_a_copy(shape, tmp_path, monkeypatch):
    """Modules that were copied take Python longer than those that it built: 1 % of a decode step of 2 ms."""

    def caught(steps, **given):
        timed.append(steps)
        raise Stop

    def stepped(models, *given, **more):
        timed.append({name: model_step(model, shape) for name, model in models.items()})
        raise Stop

    timed = []
    model = tiny_llama(layers=2)
    healed, workspace = student(model, copies(model)), Workspace(tmp_path / "run", {})
    ctx = SimpleNamespace(workspace=workspace, model=model, shape=shape)
    found = SimpleNamespace(costs=SimpleNamespace(total=Cost(0, 0, 0, latency_ms=2.0)))
    monkeypatch.setattr(finish, "latency", caught)
    monkeypatch.setattr(folding, "latency", caught)
    monkeypatch.setattr(variants, "latency", caught)
    monkeypatch.setattr(compare, "model_latency", stepped)
    paths = [
        lambda: clock_variant(model, copies(model), shape, rounds=2),
        lambda: finish._side_by_side(ctx, found, healed, "kept"),
        lambda: folding._tried(model, _no_change(), shape),
        lambda: layersmith.measure(healed, model, data="random", at=str(shape), windows=1, length=8, rounds=2),
    ]
    for path in paths:
        with pytest.raises(Stop):
            path()
    workspace.close()
    assert len(timed) == len(paths)
    built = set(map(id, model.modules()))
    tensors = {parameter.data_ptr() for parameter in model.parameters()}
    for steps in timed:
        for step in steps.values():
            assert built.isdisjoint(map(id, modules_of(step)))
        original = modules_of(steps.get("original") or steps.get("as it was") or steps["against"])
        assert {p.data_ptr() for module in original for p in module.parameters()} <= tensors, "and takes no memory"


class Stop(Exception):
    pass


def modules_of(step):
    """The modules that one timed run calls."""
    called = []
    handle = register_module_forward_hook(lambda module, args, output: called.append(module))
    try:
        step()
    finally:
        handle.remove()
    return called
