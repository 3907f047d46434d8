"""Splits of a dense feed-forward into experts: each rule against loops, and what a split has to keep."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.split_ffn import SplitFFN
from layersmith.refitting import methods
from layersmith.refitting.methods.experts import partitions
from layersmith.refitting.methods.experts.gates import (
    SPREAD,
    fit_linear,
    fit_mlp,
    fit_prior,
    needed_by_activation,
    needed_by_error,
)
from layersmith.refitting.methods.experts.moefication import active_together
from layersmith.refitting.methods.prune.width import hidden_activations
from tests.refitting.methods.by_hand import (
    best,
    built,
    distinct,
    ffn_view,
    hidden_by_hand,
    numbers,
    ridge_by_hand,
)

SPLITS = {
    "moefication": [{"split": "keys", "k": 8}, {"split": "together", "k": 8}],
    "emoe": [{"k": 8}],
    "factor_llm": [{"k": 4}],
    "llama_moe": [{"split": "random", "k": 8}, {"split": "keys", "k": 8}],
    "taylor_moe": [{"shared": 2, "k": 6}],
}


def named_once(groups, neurons):
    assert torch.equal(groups.flatten().sort().values, torch.arange(neurons))
    assert torch.equal(groups, groups.sort(1).values)


def test_random_and_neighbouring_groups_are_partitions():
    for groups in (partitions.random(24, 4, seed=0), partitions.in_order(24, 4)):
        named_once(groups, 24)
    assert torch.equal(partitions.random(24, 4, seed=0), partitions.random(24, 4, seed=0))
    assert not torch.equal(partitions.random(24, 4, seed=0), partitions.random(24, 4, seed=1))
    assert partitions.in_order(24, 4).tolist()[1] == [6, 7, 8, 9, 10, 11]


def test_keys_are_clustered_by_direction_whatever_their_length():
    """Four directions, six keys each; lengths differ by more than directions do, so that distances would mislead."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=1)
    kind = torch.arange(24) % 4
    keys = directions[kind] + 0.05 * torch.randn(24, 16, generator=generator)
    keys *= (0.1 + 10 * torch.rand(24, generator=generator))[:, None]
    groups = partitions.by_keys(keys, 4)
    named_once(groups, 24)
    assert sorted(tuple(kind[g].tolist()) for g in groups) == [(e,) * 6 for e in range(4)]


def test_equal_clusters_are_those_of_least_total_cost():
    cost = torch.rand(6, 2, generator=torch.Generator().manual_seed(1))
    cost[:, 1] += 1.0  # all points are nearer to the first cluster, which has room for half of them
    totals = {
        first: sum(float(cost[i, 0 if i in first else 1]) for i in range(6))
        for first in itertools.combinations(range(6), 3)
    }
    found = partitions.equal_clusters(cost)
    assert tuple((found == 0).nonzero()[:, 0].tolist()) == min(totals, key=totals.get)
    assert (cost[:, 0] < cost[:, 1]).all()


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_the_graph_keep_as_much_inside_as_the_best_partition(seed):
    draw = torch.Generator().manual_seed(seed)
    edges = torch.rand(8, 8, generator=draw)
    edges = edges + edges.T + 100 * torch.diag(torch.rand(8, generator=draw))  # a loop at a neuron says nothing

    def inside(groups):
        return sum(float(edges[i, j]) for g in groups for i, j in itertools.combinations(g, 2))

    halves = itertools.combinations(range(8), 4)
    most = max(inside([half, tuple(set(range(8)) - set(half))]) for half in halves)
    found = partitions.by_together(edges, 2)
    named_once(found, 8)
    exchanged = []
    for a, b in itertools.product(*found.tolist()):
        one, other = ({*found[0].tolist()} ^ {a, b}, {*found[1].tolist()} ^ {a, b})
        exchanged.append(inside([sorted(one), sorted(other)]))
    assert inside(found.tolist()) >= max(exchanged) - 1e-5, "no exchange of two neurons gains"
    assert inside(found.tolist()) >= 0.95 * most


def test_neurons_active_together_are_counted_by_token():
    hidden = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [5.0, 1.0, 0.0]])
    assert active_together(hidden, "relu").tolist() == [[2, 2, 0], [2, 3, 1], [0, 1, 1]]
    wide = torch.tensor([[0.1] * 18 + [-9.0, 8.0], [0.1] * 18 + [7.0, 0.0]])
    strongest = active_together(wide, "silu")  # a tenth of 20: two a token, by size
    assert strongest[18, 18] == 2
    assert strongest[18, 19] == 1
    assert strongest.sum() == 8


def test_the_most_important_neurons_are_shared_and_groups_go_down_in_importance():
    score = torch.tensor([3.0, 9.0, 1.0, 7.0, 5.0, 8.0, 2.0, 4.0])
    assert partitions.by_importance(score, 4).tolist() == [[1, 5], [3, 4], [0, 7], [2, 6]]
    shared, rest = partitions.split(score, 1, 3)
    assert shared.tolist() == [[1, 5]]
    assert rest.tolist() == [0, 2, 3, 4, 6, 7]


def test_what_a_token_needs_by_activation_and_by_error():
    at = ffn_view(GLU, act="silu", tokens=40)
    dense = at.ffn.operator
    groups = partitions.random(24, 4, seed=3)
    hidden = hidden_by_hand(dense, at.inputs)
    down = numbers(dense.down.weight)
    found = hidden_activations(dense, at.inputs)
    by_size = [[sum(abs(row[i]) for i in g) for g in groups.tolist()] for row in hidden]
    np.testing.assert_allclose(numbers(needed_by_activation(found, groups)), by_size, rtol=1e-4)

    def error(row, group, share):
        own = [sum(row[i] * weights[i] for i in group) for weights in down]
        whole = [sum(a * w for a, w in zip(row, weights, strict=True)) for weights in down]
        return -sum((a - share * b) ** 2 for a, b in zip(own, whole, strict=True)) / len(down)

    wanted = [[error(row, g, 0.5) for g in groups.tolist()] for row in hidden]
    np.testing.assert_allclose(
        numbers(needed_by_error(found, groups, dense.down.weight.detach(), k=2)), wanted, rtol=1e-3, atol=1e-4
    )
    distinct(
        [best(row, 2) for row in wanted],
        by_size=[best(row, 2) for row in by_size],
        whole_output=[best([error(row, g, 1.0) for g in groups.tolist()], 2) for row in hidden],
    )


def test_a_linear_gate_starts_as_the_ridge_fit_of_what_sets_groups_apart():
    at = ffn_view(GLU, act="silu", tokens=200)
    groups = partitions.random(24, 4, seed=0)
    needed = needed_by_activation(hidden_activations(at.ffn.operator, at.inputs), groups)
    part = SplitFFN.from_dense(at.ffn.operator, groups, 2, "linear")
    fit_linear(part, at.inputs, needed)
    x = at.inputs.double().numpy()
    apart = (needed - needed.mean(1, keepdim=True)).double().numpy()
    weight = ridge_by_hand(x - x.mean(0), apart - apart.mean(0), 1e-2)
    logits = (x - x.mean(0)) @ weight.T + apart.mean(0)
    wanted = weight * SPREAD / logits.std(ddof=1)
    np.testing.assert_allclose(numbers(part.choice.weight), wanted, rtol=1e-3, atol=1e-6)
    assert part.scores(at.inputs).std().item() == pytest.approx(SPREAD, rel=1e-3)


def agreement(part, x, needed):
    """Share of the k most needed groups that the gate chooses."""
    wanted = torch.zeros_like(needed).scatter(1, needed.topk(part.k).indices, 1.0)
    chosen = torch.zeros_like(needed).scatter(1, part.scores(x).topk(part.k).indices, 1.0)
    return float((wanted * chosen).sum() / wanted.sum())


def test_the_prior_loss_is_lower_after_training_and_choices_agree_more_than_by_chance():
    at = ffn_view(GLU, act="silu", tokens=400)
    dense = at.ffn.operator
    groups = partitions.in_order(24, 4)
    hidden = hidden_activations(dense, at.inputs)
    needed = needed_by_error(hidden, groups, dense.down.weight.detach(), k=2)
    part = SplitFFN.from_dense(dense, groups, 2, "linear")

    def divergence():
        p = part.scores(at.inputs).detach().softmax(-1).double()
        mask = torch.zeros_like(p).scatter(1, needed.topk(2).indices, 1.0)
        q = mask.softmax(-1)
        return float((p * (p / q).log()).sum(-1).mean())

    fit_linear(part, at.inputs, needed)
    before = divergence()
    fit_prior(part, at.inputs, needed)
    assert divergence() < 0.95 * before
    assert agreement(part, at.inputs, needed) > 0.6  # 0.5 by chance
    assert all(p.grad is None for p in part.parameters())


def planted(tokens=400):
    """A ReLU layer whose first half of neurons reads the first half of the input, and tokens that are large in one."""
    torch.manual_seed(0)
    mlp = MLP(16, 64, act="relu", bias=False)
    with torch.no_grad():
        mlp.up.weight[::2, 8:] = 0
        mlp.up.weight[1::2, :8] = 0
    x = 0.1 * torch.randn(tokens, 16)
    x[: tokens // 2, :8] += torch.randn(tokens // 2, 8).abs()
    x[tokens // 2 :, 8:] += torch.randn(tokens // 2, 8).abs()  # the gate is odd: signs would cancel
    return mlp, x


def test_planted_groups_are_found_by_who_is_active_together_and_the_mlp_gate_chooses_them():
    mlp, x = planted()
    hidden = hidden_activations(mlp, x)
    active = (hidden > 0.1).float()
    groups = partitions.by_together(active_together(active, "relu"), 2)
    alive = active.mean(0) > 0.05  # a neuron that never fires stands where there is room
    assert alive.sum() > 20
    assert sorted(sorted({int(i) % 2 for i in group[alive[group]]}) for group in groups) == [[0], [1]]
    part = SplitFFN.from_dense(mlp, groups, 1, "mlp")
    needed = needed_by_activation(hidden, groups)
    fit_mlp(part, x, needed)
    assert agreement(part, x, needed) > 0.95


def test_the_oracle_is_better_than_the_mlp_gate_and_that_than_a_random_split():
    mlp, x = planted()
    hidden, y = hidden_activations(mlp, x), mlp(x)

    def error(groups, gate):
        part = SplitFFN.from_dense(mlp, groups, 2, gate).eval()
        if gate == "mlp":
            fit_mlp(part, x, needed_by_activation(hidden, groups))
        with torch.no_grad():
            return float((part(x) - y).square().sum() / y.square().sum())

    groups = partitions.by_keys(mlp.up.weight.detach(), 8)
    errors = [error(groups, "oracle"), error(groups, "mlp"), error(partitions.random(64, 8, seed=0), "mlp")]
    assert errors == sorted(errors)
    assert errors[2] > 1.05 * errors[0]


@pytest.mark.parametrize(("name", "settings"), [(n, s) for n, each in SPLITS.items() for s in each])
@pytest.mark.parametrize(("kind", "bias"), [(GLU, False), (MLP, True)])
def test_all_experts_are_the_original(name, settings, kind, bias):
    at = ffn_view(kind, d_hidden=32, tokens=80, act="silu", bias=bias)
    at.statistics = {"taylor": torch.randn(32, generator=torch.Generator().manual_seed(0))}
    y = built(name, at, settings)(at.inputs)
    near = 0.05 if name == "llama_moe" else 1e-5  # its router weighs the groups, nearly evenly at the start
    assert float((y - at.targets).norm() / at.targets.norm()) < near


@pytest.mark.parametrize("name", SPLITS)
def test_fewer_experts_are_worse_and_better_than_nothing(name, view):
    at = view("layers.1.ffn", taylor=torch.linspace(-1, 1, 64))
    at.holdout = at.fit
    method = methods.get(name)
    first = SPLITS[name][0]
    errors = [at.local_error(method.build(at, {**first, "k": k})) for k in (1, 2, first["k"])]
    if name != "llama_moe":  # scaled by E / k, few random groups overshoot
        assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01
    assert errors[1] > 0.01


def test_taylor_moe_shares_the_neurons_of_the_largest_gradient_whatever_its_sign():
    at = ffn_view(GLU, d_hidden=32, act="silu", tokens=80)
    scores = torch.randn(32, generator=torch.Generator().manual_seed(1))
    at.statistics = {"taylor": scores}
    shared = best([abs(s) for s in numbers(scores)], 8)
    distinct(shared, signed=best(numbers(scores), 8), least=best([-abs(s) for s in numbers(scores)], 8))
    part = built("taylor_moe", at, {"shared": 2, "k": 1})
    assert torch.equal(part.up[:2].flatten(0, 1), at.ffn.operator.up.weight[shared])


def test_llama_moe_scales_what_the_chosen_groups_add_and_clusters_the_up_projection():
    at = ffn_view(GLU, d_hidden=32, act="silu", tokens=80)
    part = built("llama_moe", at, {"split": "keys", "k": 2})
    assert part.scale == 4.0
    groups = partitions.by_keys(at.ffn.operator.up.weight.detach(), 8)
    assert torch.equal(part.up, at.ffn.operator.up.weight[groups])
    assert not torch.equal(groups, partitions.by_keys(at.ffn.operator.gate.weight.detach(), 8))


def test_emoe_clusters_and_chooses_by_the_gates_rows():
    at = ffn_view(GLU, d_hidden=32, act="silu", tokens=80)
    part = built("emoe", at, {"k": 2})
    gate = at.ffn.operator.gate.weight.detach()
    groups = partitions.by_keys(gate, 8)
    assert torch.equal(part.gate, gate[groups])
    torch.testing.assert_close(part.scores(at.inputs), at.inputs @ gate[groups].mean(1).T)


@pytest.mark.parametrize("name", SPLITS)
def test_what_is_no_feed_forward_or_does_not_divide_is_refused(name):
    def reason(dense):
        found = dense and SimpleNamespace(operator=dense)
        return methods.get(name).unsupported_reason(SimpleNamespace(ffn=found, statistics={"taylor": 0}))

    assert reason(None) == "it is not a plain or gated feed-forward"
    assert reason(GLU(8, 18)).startswith("its 18 neurons do not divide into")
    assert reason(GLU(8, 16, bias=True)) is None
    assert reason(MLP(8, 16)) is None


def test_taylor_moe_needs_gradients():
    at = SimpleNamespace(ffn=SimpleNamespace(operator=GLU(8, 16)), statistics={})
    assert methods.get("taylor_moe").unsupported_reason(at).startswith("no gradient statistics")
