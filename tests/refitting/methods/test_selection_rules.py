"""What each method chooses, against its paper's formula written out slowly: loops in double precision.

Every fixture is one in which the rules that are easily taken for the right one choose something else; that is checked
beside the choice itself (`distinct`), since an oracle that every rule agrees with proves nothing.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from layersmith.anatomy import find_sites
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.refitting.calibrate.taylor import taylor_scores
from layersmith.refitting.methods.prune.carve import ACTIVE, EXPERTS, balanced_kmeans
from layersmith.runs.workspace import Workspace
from tests.anatomy.families import BY_NAME
from tests.refitting.methods.by_hand import (
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
    silu,
    unit,
)


@pytest.mark.parametrize("kind", [GLU, MLP])
def test_width_keeps_the_channels_of_largest_activation_norm_times_output_norm(kind):
    at = ffn_view(kind, bias=True, act="silu")
    dense = at.ffn.operator
    hidden = hidden_by_hand(dense, at.inputs)
    channels, out = list(zip(*hidden, strict=True)), out_norms(dense)
    kept = best([rms(h) * w for h, w in zip(channels, out, strict=True)], 8)
    before = list(zip(*hidden_by_hand(dense, at.inputs, activated=False), strict=True))
    distinct(
        kept,
        without_output_weights=best([rms(h) for h in channels], 8),
        output_weights_alone=best(out, 8),
        mean_instead_of_norm=best([abs(sum(h)) * w for h, w in zip(channels, out, strict=True)], 8),
        before_the_activation=best([rms(h) * w for h, w in zip(before, out, strict=True)], 8),
        least=best([-rms(h) * w for h, w in zip(channels, out, strict=True)], 8),
    )
    part = built("width", at, {"keep": 1 / 3})
    for name in ("gate", "up") if kind is GLU else ("up",):
        assert torch.equal(getattr(part, name).weight, getattr(dense, name).weight[kept])
        assert torch.equal(getattr(part, name).bias, getattr(dense, name).bias[kept])
    assert torch.equal(part.down.bias, dense.down.bias)
    few = [[row[c] for c in kept] for row in hidden]
    wanted = ridge_by_hand(few, np.asarray(hidden) @ dense.down.weight.detach().double().numpy().T, 1e-4)
    np.testing.assert_allclose(numbers(part.down.weight), wanted, rtol=1e-3, atol=1e-4)


def test_width_by_gradient_takes_the_size_of_the_mean_whatever_its_sign():
    at = ffn_view(GLU, bias=True, act="silu")
    scores = torch.randn(24, generator=torch.Generator().manual_seed(1))
    at.statistics = {"taylor": scores}
    kept = best([abs(s) for s in numbers(scores)], 8)
    distinct(kept, signed=best(numbers(scores), 8), least=best([-abs(s) for s in numbers(scores)], 8))
    part = built("width_taylor", at, {"keep": 1 / 3})
    assert torch.equal(part.up.weight, at.ffn.operator.up.weight[kept])
    assert torch.equal(part.down.bias, at.ffn.operator.down.bias)


def test_taylor_scores_are_what_the_entropy_changes_by_when_a_channel_grows(tmp_path):
    """d/de of sum_t H_t with channel c times (1 + e) is sum_t h_c dH/dh_c: a difference quotient needs no gradient."""
    # A Llama would be too coarse: its norms compute in float32 in any case.
    model = BY_NAME["gpt2"].model().double().requires_grad_(False)
    batches = [{"input_ids": torch.arange(12).view(2, 6) * 7 % 90}, {"input_ids": torch.arange(12).view(2, 6) * 5 % 90}]
    workspace = Workspace(tmp_path / "run", {})
    found = taylor_scores(model, find_sites(model), batches, workspace)["layers.1.ffn"]["taylor"]
    workspace.close()
    down, step, tokens = model.transformer.h[1].mlp.c_proj, 1e-4, 2 * 2 * 6

    def entropy():
        total = 0.0
        for batch in batches:
            p = model(**batch).logits.double().softmax(-1)
            total -= float((p * p.log()).sum())
        return total

    for channel in range(0, len(found), 9):
        around = []
        for change in (step, -step):
            scale = torch.ones(len(found), dtype=torch.float64)
            scale[channel] += change
            hook = down.register_forward_pre_hook(lambda module, args, scale=scale: (args[0] * scale,))
            around.append(entropy())
            hook.remove()
        assert found[channel].item() == pytest.approx((around[0] - around[1]) / (2 * step) / tokens, rel=1e-3, abs=1e-7)


def test_biased_fixtures_are_biased():
    """A zeroed bias must not pass for a copied one."""
    dense = ffn_view(GLU, bias=True, act="silu").ffn.operator
    assert all(getattr(dense, n).bias.abs().min() > 1e-3 for n in ("gate", "up", "down"))
    assert copy.deepcopy(dense).down.bias.equal(dense.down.bias)
    assert BY_NAME["gpt2"].model().transformer.h[0].mlp.c_proj.bias is not None


def test_idle_ffn_keeps_the_channels_that_are_furthest_from_linear():
    at = ffn_view(MLP, bias=True, act="silu", tokens=200)
    dense = at.ffn.operator
    with torch.no_grad():
        dense.up.bias[:12] += 15.0  # large, and on the straight part of the activation
    at.targets = dense(at.inputs).detach()
    hidden = np.asarray(hidden_by_hand(dense, at.inputs))
    design = np.hstack([at.inputs.double().numpy(), np.ones((200, 1))])
    left, out = [], out_norms(dense)
    for c in range(24):
        solution = np.linalg.lstsq(design, hidden[:, c], rcond=None)[0]
        left.append(rms(list(hidden[:, c] - design @ solution)))
    kept = best([r * w for r, w in zip(left, out, strict=True)], 8)
    distinct(
        kept,
        largest=best([rms(h) * w for h, w in zip(hidden.T, out, strict=True)], 8),
        without_output_weights=best(left, 8),
        most_linear=best([-r * w for r, w in zip(left, out, strict=True)], 8),
    )
    part = built("idle_ffn", at, {"keep": 1 / 3})
    assert torch.equal(part.up.weight, dense.up.weight[kept])
    assert torch.equal(part.up.bias, dense.up.bias[kept])


def test_topk_of_a_gated_layer_goes_by_the_gate_before_its_activation():
    at = ffn_view(GLU, act="silu", tokens=12)
    dense = at.ffn.operator
    y = numbers(built("topk", at, {"keep": 0.25})(at.inputs))
    other_choices = 0
    for token, row in enumerate(numbers(at.inputs)):
        gate, up = linear_by_hand(dense.gate, row), linear_by_hand(dense.up, row)
        kept = best(gate, 6)
        other_choices += kept != best([abs(g) for g in gate], 6)
        other_choices += kept != best([abs(silu(g) * u) for g, u in zip(gate, up, strict=True)], 6)
        for out, weights in enumerate(numbers(dense.down.weight)):
            wanted = sum(silu(gate[c]) * up[c] * weights[c] for c in kept)
            assert y[token][out] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert other_choices >= 12


def test_topk_of_a_plain_layer_goes_by_the_size_of_the_activation():
    at = ffn_view(MLP, act="identity", bias=True, tokens=12)
    dense = at.ffn.operator
    y = numbers(built("topk", at, {"keep": 0.25})(at.inputs))
    for token, row in enumerate(numbers(at.inputs)):
        hidden = linear_by_hand(dense.up, row)
        kept = best([abs(h) for h in hidden], 6)
        assert kept != best(hidden, 6)
        for out, (weights, bias) in enumerate(zip(numbers(dense.down.weight), numbers(dense.down.bias), strict=True)):
            assert y[token][out] == pytest.approx(sum(hidden[c] * weights[c] for c in kept) + bias, rel=1e-4, abs=1e-5)


def marks_by_hand(dense, x):
    """[tokens][d_hidden] 0 or 1: the strongest neurons of each token, by directions alone."""
    gates, ups = ([unit(w) for w in numbers(getattr(dense, n).weight)] for n in ("gate", "up"))
    marks = []
    for row in numbers(x):
        row = unit(row)
        answers = [[sum(a * b for a, b in zip(row, w, strict=True)) for w in side] for side in (gates, ups)]
        strength = [abs(silu(g) * u) for g, u in zip(*answers, strict=True)]
        marked = best(strength, int(ACTIVE * len(strength)))
        marks.append([float(c in marked) for c in range(len(strength))])
    return marks


def test_carve_shares_the_neurons_marked_most_often_and_routes_by_the_nearest_to_each_centroid():
    at = ffn_view(GLU, d_hidden=64, act="silu", tokens=300, seed=2)
    dense = at.ffn.operator
    marks = np.asarray(marks_by_hand(dense, at.inputs))
    counts = marks.sum(0)
    shared = best(list(counts), 2 * 64 // EXPERTS)
    assert min(counts[c] for c in shared) > max(counts[c] for c in range(64) if c not in shared), (
        "no ties at the border"
    )
    norms = [math.sqrt(sum(v * v for v in w)) for w in numbers(dense.gate.weight)]
    distinct(shared, least=best(list(-counts), 16), by_weight=best(norms, 16))
    part = built("carve", at, {"shared": 2, "k": 2})
    assert torch.equal(part.shared.gate.weight, dense.gate.weight[shared])

    def neuron(row, weights):
        return int((weights - row).abs().sum(1).argmin())

    seen, told_apart = set(shared), 0
    for expert in range(part.gate.shape[0]):
        members = [neuron(row, dense.gate.weight) for row in part.gate[expert]]
        seen |= {*members}
        centroid = [sum(marks[t][c] for c in members) / len(members) for t in range(len(marks))]
        away = {c: sum(abs(marks[t][c] - centroid[t]) for t in range(len(marks))) for c in members}
        directions = torch.nn.functional.normalize(dense.gate.weight[members], dim=1)
        representative = members[neuron(part.router_gate[expert], directions)]
        assert away[representative] <= min(away.values()) + 1e-6
        told_apart += max(away.values()) > min(away.values()) + 1.0
    assert seen == set(range(64))
    assert told_apart >= 3


def test_equal_clusters_are_the_planted_ones():
    """Three templates, four copies each with more and more noise; the first three points are of different kinds."""
    generator = torch.Generator().manual_seed(0)
    templates = (torch.rand(3, 60, generator=generator) < 0.5).float()
    kind = torch.tensor([0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 1, 2])
    noise = torch.tensor([0.05, 0.05, 0.05, 0.2, 0.1, 0.2, 0.0, 0.1, 0.0, 0.0, 0.1, 0.2])[:, None]
    points = (templates[kind] - (torch.rand(12, 60, generator=generator) < noise).float()).abs()
    members, representatives = balanced_kmeans(points, 3)
    assert [sorted(kind[m].tolist()) for m in members] == [[0] * 4, [1] * 4, [2] * 4]
    for group, chosen in zip(members.tolist(), representatives.tolist(), strict=True):
        centroid = points[group].mean(0)
        away = {c: float((points[c] - centroid).abs().sum()) for c in group}
        assert away[chosen] == pytest.approx(min(away.values()))
        assert max(away.values()) > min(away.values()) + 0.5
