"""Merging neurons by optimal transport: the plan against linear programming, and merges that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.refitting import methods
from layersmith.refitting.methods.prune.dotresize import TOLERANCE, distances, merged, transport


def exact(cost):
    """The plan of least cost between uniform masses, by linear programming."""
    n, k = cost.shape
    rows = np.kron(np.eye(n), np.ones(k))
    columns = np.kron(np.ones(n), np.eye(k))
    masses = [1 / n] * n + [1 / k] * k
    found = linprog(cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=masses)
    return torch.from_numpy(found.x.reshape(n, k)), found.fun


def test_masses_are_uniform_and_the_cost_is_near_the_least():
    torch.manual_seed(0)
    cost = torch.rand(12, 5, dtype=torch.float64)
    plan = transport(cost, 0.02)
    torch.testing.assert_close(plan.sum(0), torch.full((5,), 0.2, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((12,), 1 / 12, dtype=torch.float64), rtol=2 * TOLERANCE, atol=0)
    best, least = exact(cost)
    assert least - 1e-9 <= float((plan * cost).sum()) < 1.02 * least
    assert (plan - best).abs().max() < 0.02
    assert float((transport(cost, 1.0) * cost).sum()) > float((plan * cost).sum()), "entropy spreads"


def test_distances_are_those_of_the_activations():
    torch.manual_seed(0)
    h = torch.randn(50, 6, dtype=torch.float64)
    found = distances(h.T @ h / 50, torch.tensor([4, 1]))
    expected = torch.tensor([[float((h[:, i] - h[:, j]).square().mean().sqrt()) for j in (4, 1)] for i in range(6)])
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dense", [GLU(8, 16, act="silu", bias=True), MLP(8, 16, act="gelu")], ids=["glu", "mlp"])
def test_equal_neurons_are_merged_without_loss_and_others_are_not(dense):
    torch.manual_seed(0)
    with torch.no_grad():
        for name in ("gate", "up") if dense.name == "glu" else ("up",):
            linear = getattr(dense, name)
            linear.weight.copy_(torch.randn(8, 8).repeat(2, 1))
            linear.bias.copy_(torch.randn(8).repeat(2))
        x = torch.randn(200, 8)
        h = dense.act(dense.gate(x)) * dense.up(x) if dense.name == "glu" else dense.act(dense.up(x))
        gram = (h.T @ h).double() / 200
        targets = torch.arange(8)
        small = merged(dense, targets, transport(distances(gram, targets), 0.02))
        assert small.spec()["d_hidden"] == 8
        torch.testing.assert_close(small(x), dense(x), rtol=1e-3, atol=1e-3)
        pairs = torch.tensor([0, 8, 1, 9, 2, 10, 3, 11])  # both of each pair are targets, and the other pairs homeless
        worse = merged(dense, pairs, transport(distances(gram, pairs), 0.02))
        assert (worse(x) - dense(x)).norm() > 0.05 * dense(x).norm()


def test_all_neurons_kept_is_the_feed_forward_itself(view):
    at = view("layers.1.ffn")
    dense = at.ffn.operator
    targets = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    plan = torch.zeros(64, 64, dtype=torch.float64)
    plan[targets, torch.arange(64)] = 1 / 64  # a permutation, as for eps -> 0
    torch.testing.assert_close(merged(dense, targets, plan)(at.inputs), dense(at.inputs), rtol=1e-4, atol=1e-5)
    assert at.local_error(methods.get("dotresize").build(at, {"keep": 1.0})) < 0.01


def test_merging_what_is_alike_beats_merging_at_random(view):
    at = view("layers.1.ffn")
    torch.manual_seed(0)
    dense = at.ffn.operator
    with torch.no_grad():  # each neuron has a twin that is nearly as it is
        for name in ("gate", "up"):
            weight = getattr(dense, name).weight
            weight[32:] = weight[:32] + 0.1 * weight[:32].norm(dim=1).mean() / 6 * torch.randn(32, 32)
        dense.down.weight[:, 32:] *= 0.5
        targets = torch.arange(32)
        h = dense.act(dense.gate(at.inputs)) * dense.up(at.inputs)
        plan = transport(distances((h.T @ h).double() / len(h), targets), 0.05)
        random = torch.zeros_like(plan)
        random[torch.arange(64), torch.cat((torch.arange(32), torch.randperm(32)))] = 1 / 64
        wrong = [(merged(dense, targets, p)(at.inputs) - dense(at.inputs)).norm() for p in (plan, random)]
    assert wrong[0] < 0.3 * wrong[1]
