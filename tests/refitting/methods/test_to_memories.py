"""Trained feed-forwards turned into memories: what is exact, what beats a linear map, and what is refused."""

from types import SimpleNamespace

import pytest
import torch

from layersmith.ffn.mlp import MLP
from layersmith.linear.memory_linear import MemoryLinear
from layersmith.refitting import methods
from layersmith.refitting.methods.clustering import kmeans, nearest_centroid
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.methods.replace.to_memory_former import fit_tables
from layersmith.refitting.view import SublayerView


def mlp_site(act="relu", d_model=24, d_hidden=48, tokens=1500):
    """A view of an MLP without biases, with inputs of unequal directions: what `build` reads, and fresh inputs."""
    torch.manual_seed(0)
    mlp = MLP(d_model, d_hidden, act=act, bias=False).requires_grad_(False)
    mlp.up.weight.mul_(3)
    x = torch.randn(tokens + 300, d_model) @ (torch.randn(d_model, d_model) * torch.logspace(0, -1, d_model))
    x = x / x.norm(dim=1, keepdim=True) * d_model**0.5
    y = mlp(x)
    view = SimpleNamespace(
        site=SimpleNamespace(d_model=d_model, kind="ffn"),
        device=torch.device("cpu"),
        ffn=SimpleNamespace(operator=mlp),
        inputs=x[:tokens],
        targets=y[:tokens],
        seed=0,
        as_replacement=lambda operator: operator,
    )
    return view, x[tokens:], y[tokens:]


def error(y, target):
    return float(((y - target).square().sum() / target.square().sum()).detach())


@pytest.fixture(scope="module")
def floor():
    view, x, y = mlp_site()
    weight, bias = ridge(view.inputs, view.targets)
    return error(x @ weight.T + bias, y)


def test_peer_with_every_neuron_is_the_mlp():
    view, x, y = mlp_site(act="gelu")
    peer = methods.get("peer").build(view, {"share": 1.0})
    torch.testing.assert_close(peer(x), y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "share_of_floor"), [("peer", 0.5), ("pkm", 1.0), ("ultra_mem", 1.0)])
def test_beats_the_best_linear_map(name, share_of_floor, floor):
    view, x, y = mlp_site()
    assert error(methods.get(name).build(view, {"share": 0.5})(x), y) < share_of_floor * floor


@pytest.mark.parametrize("name", ["peer", "pkm", "ultra_mem"])
def test_more_slots_read_is_closer(name):
    view, x, y = mlp_site()
    shares = [0.1, 0.4, 1.0]
    errors = [error(methods.get(name).build(view, {"share": s})(x), y) for s in shares]
    assert errors[0] > errors[1] > errors[2]


def test_peer_finds_the_neurons_that_matter():
    """Chosen by the keys, a quarter of the neurons explains more than a quarter drawn at random."""
    view, x, _ = mlp_site()
    peer = methods.get("peer").build(view, {"share": 0.25})
    hidden = (x @ peer.up.T).relu() * peer.down.norm(dim=1)
    _, chosen = peer.search(x)
    found = hidden.gather(1, chosen[:, 0]).sum() / hidden.sum()
    assert found.item() > 0.45


def test_too_many_neurons_are_refused():
    site = SimpleNamespace(ffn=SimpleNamespace(operator=SimpleNamespace(down=torch.nn.Linear(5000, 2))))
    assert "5000 neurons" in methods.get("peer").unsupported_reason(site)
    for name in ("peer", "pkm", "ultra_mem"):
        assert "not a plain or gated" in methods.get(name).unsupported_reason(SimpleNamespace(ffn=None))


def test_views_are_what_the_methods_read():
    """The stand-in above has the attributes of a real view."""
    assert {"inputs", "targets", "ffn", "as_replacement"} <= set(dir(SublayerView))


def test_tables_fitted_to_a_linear_teacher_beat_random_ones():
    torch.manual_seed(0)
    x, weight = torch.randn(3000, 12), torch.randn(12, 7)
    for kind in ("softmax", "scaled"):
        layer = MemoryLinear(12, 7, bits=3, weight=kind)
        fresh = torch.randn(500, 12)
        before = error(layer(fresh), fresh @ weight)
        fit_tables(layer, x, x @ weight)
        assert error(layer(fresh), fresh @ weight) < 0.5 < before


def test_tables_that_made_the_targets_are_found():
    torch.manual_seed(0)
    teacher, student = (MemoryLinear(8, 5, bits=2, weight="scaled", bias=False) for _ in range(2))
    x = torch.randn(2000, 8)
    fit_tables(student, x, teacher(x), rounds=20, strength=0.0)
    assert error(student(x), teacher(x)) < 1e-3


def test_memory_former_explains_a_part_of_the_layer_and_refuses_odd_widths():
    view, x, y = mlp_site()
    for settings in methods.get("memory_former").options(view):
        assert error(methods.get("memory_former").build(view, settings)(x), y) < 0.9
    assert "25 is not a multiple" in methods.get("memory_former").unsupported_reason(
        SimpleNamespace(site=SimpleNamespace(d_model=25))
    )


def test_ultra_mem_starts_as_the_product_key_memory():
    view, x, _ = mlp_site()
    ultra, pkm = (methods.get(name).build(view, {"share": 0.5}) for name in ("ultra_mem", "pkm"))
    assert error(ultra(x), pkm(x)) < 0.02


def test_sparse_vq_is_no_worse_than_a_linear_map_where_it_was_fitted():
    view, _, _ = mlp_site()
    weight, bias = ridge(view.inputs, view.targets)
    linear = error(view.inputs @ weight.T + bias, view.targets)
    fine, coarse = (methods.get("sparse_vq").build(view, s) for s in methods.get("sparse_vq").options(view))
    assert error(fine(view.inputs), view.targets) < error(coarse(view.inputs), view.targets) < linear


def test_kmeans_finds_planted_clusters():
    torch.manual_seed(0)
    centres = 10 * torch.eye(4)
    points = centres.repeat(50, 1) + 0.1 * torch.randn(200, 4)
    found = kmeans(points, 8)
    assert torch.cdist(centres, found).min(1).values.max() < 0.5
    assert (points - found[nearest_centroid(points, found)]).square().sum(1).mean() < 0.1
    assert kmeans(points[:3], 5).unique(dim=0).shape == (5, 4)
