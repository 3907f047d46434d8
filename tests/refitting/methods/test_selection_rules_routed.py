"""What trees and experts are made of, against rules written out by hand (see `test_selection_rules`)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.refitting.methods.replace.neuron_experts import SPREAD, neuron_groups
from layersmith.refitting.methods.replace.to_fff import best_split
from layersmith.refitting.methods.replace.to_fff_leaves import hyperplane
from tests.refitting.methods.by_hand import (
    D,
    best,
    built,
    distinct,
    ffn_view,
    hidden_by_hand,
    linear_by_hand,
    numbers,
    out_norms,
    ridge_by_hand,
    rms,
)


def spread_inside(targets):
    return float(((targets - targets.mean(0)) ** 2).sum()) if len(targets) else 0.0


def split_by_hand(answers, targets):
    """The column whose split at its (lower) median leaves the targets most alike on either side."""
    left = []
    for column in answers.T:
        border = sorted(column)[(len(column) - 1) // 2]
        right = column > border
        left.append(spread_inside(targets[right]) + spread_inside(targets[~right]))
    return int(np.argmin(left))


@pytest.mark.parametrize("seed", range(5))
def test_a_node_splits_where_the_targets_on_either_side_are_most_alike(seed):
    rng = np.random.default_rng(seed)
    answers = rng.normal(size=(41, 12))
    answers[:, 6:] = np.where(rng.random((41, 6)) < 0.85, 0.0, answers[:, 6:])  # ties: few tokens on the right side
    targets = rng.normal(size=(41, 3)) + (answers[:, 5:6] > 0.3) * 0.8
    column, border = best_split(torch.tensor(answers).float(), torch.tensor(targets).float())
    assert column == split_by_hand(answers, targets)
    assert border == pytest.approx(sorted(answers[:, column])[20])


def test_the_root_of_a_tree_is_a_trained_neuron_shifted_to_its_median():
    at = ffn_view(GLU, act="silu", tokens=101)
    dense = at.ffn.operator
    part = built("fff", at, {"depth": 1, "n_trees": 1})
    answers = np.asarray([linear_by_hand(dense.gate, row) for row in numbers(at.inputs)])
    neuron = split_by_hand(answers, at.targets.double().numpy())
    assert torch.equal(part.up[0, 0], dense.gate.weight[neuron])
    assert -part.bias[0, 0].item() == pytest.approx(sorted(answers[:, neuron])[50], rel=1e-4)


def test_a_leaf_keeps_the_neurons_that_are_strongest_in_its_own_region():
    at = ffn_view(MLP, act="silu", bias=True, tokens=200)
    dense = at.ffn.operator
    part = built("fff_leaves", at, {"depth": 1, "keep": 1 / 3})
    hidden, out = np.asarray(hidden_by_hand(dense, at.inputs)), out_norms(dense)
    right = (at.inputs @ part.node[0] + part.node_bias[0] > 0).numpy()
    everywhere = best([rms(h) * w for h, w in zip(hidden.T, out, strict=True)], 8)
    chosen = []
    for leaf, here in enumerate((~right, right)):
        kept = best([rms(h) * w for h, w in zip(hidden[here].T, out, strict=True)], 8)
        assert torch.equal(part.up[leaf], dense.up.weight[kept])
        assert torch.equal(part.up_bias[leaf], dense.up.bias[kept])
        chosen.append(kept)
    distinct(chosen, same_everywhere=[everywhere, everywhere], regions_exchanged=chosen[::-1])


def test_a_leafs_node_predicts_the_first_principal_direction_of_the_targets():
    torch.manual_seed(0)
    x = torch.randn(300, D)
    targets = x @ torch.randn(D, 5) * torch.tensor([3.0, 0.2, 0.2, 0.2, 0.2]) + 5.0
    node, bias = hyperplane(x, targets)
    centred = targets.double().numpy() - targets.double().numpy().mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    wanted = np.linalg.lstsq(x.double().numpy(), centred @ vectors[:, -1], rcond=None)[0]
    found = node.double().numpy()
    assert abs(found @ wanted) / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.999
    right = int((x @ node + bias > 0).sum())
    assert 148 <= right <= 152


def test_the_router_of_experts_predicts_each_groups_joint_strength():
    """A neuron's strength is what it adds to the output; the loudest neurons here have the least output weight."""
    at = ffn_view(GLU, d_hidden=32, act="silu", tokens=400)
    dense = at.ffn.operator
    with torch.no_grad():
        dense.gate.weight[:16] *= 4
        dense.down.weight[:, :16] *= 0.01
    groups, router = neuron_groups(dense, at.inputs, 4)
    hidden, out = np.abs(hidden_by_hand(dense, at.inputs)), np.asarray(out_norms(dense))

    def by(strength):
        joint = np.asarray([[math.sqrt(sum(row[c] ** 2 for c in g)) for g in groups.tolist()] for row in strength])
        found = ridge_by_hand(at.inputs, joint - joint.mean(1, keepdims=True), 1e-2)
        return found * SPREAD / (at.inputs.double().numpy() @ found.T).std(ddof=1)

    np.testing.assert_allclose(numbers(router), by(hidden * out), rtol=1e-3, atol=1e-6)
    assert abs(by(hidden) - by(hidden * out)).max() > 0.1 * abs(by(hidden)).max()


def test_experts_are_grouped_by_who_adds_most_to_the_output():
    """Two planted groups that add much, among neurons that are loud and add nothing: those say nothing of anybody."""
    torch.manual_seed(0)
    glu = GLU(32, 64)
    with torch.no_grad():
        for weight in (glu.gate.weight, glu.up.weight):
            weight[:16, 16:] = 0
            weight[16:32, :16] = 0
            weight[32:] *= 8
        glu.down.weight[:, 32:] *= 1e-3
    x = torch.randn(400, 32)
    x[:200, :16], x[200:, 16:] = 3 * x[:200, :16].abs(), 3 * x[200:, 16:].abs()
    groups, _ = neuron_groups(glu, x, 2)
    sides = [{"first": int((g < 16).sum()), "second": int(((g >= 16) & (g < 32)).sum())} for g in groups]
    one, other = sorted(sides, key=lambda side: -side["first"])
    assert one["first"] - one["second"] >= 10
    assert other["second"] - other["first"] >= 10
