"""Fusing a block into the one before it: the start is plain removal, training betters it, folding changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from layersmith.anatomy.edit import Edit, apply
from layersmith.refitting import methods
from layersmith.refitting.candidate import decided_sites
from layersmith.refitting.methods.drop import fusegpt
from layersmith.refitting.methods.drop.fusegpt import FusedLinear, train

BLOCK = "layers.1"


def linear(seed, bias=True):
    torch.manual_seed(seed)
    return torch.nn.Linear(6, 4, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_weight_by_loops(bias):
    kept, pruned = linear(0, bias), linear(1, bias)
    part = FusedLinear(kept, pruned, 2, torch.Generator().manual_seed(0))
    x = torch.randn(5, 6)
    torch.testing.assert_close(part(x), kept(x), rtol=0, atol=0)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_()
    weight = kept.weight.clone()
    for o in range(4):
        for i in range(6):
            weight[o, i] += sum(part.b[o, r] * part.a[r, i] for r in range(2)).item() * pruned.weight[o, i]
            weight[o, i] += sum(part.b_update[o, r] * part.a_update[r, i] for r in range(2)).item()
    expected = x @ weight.T + (kept.bias + part.c.detach() * pruned.bias if bias else 0)
    torch.testing.assert_close(part(x), expected)
    torch.testing.assert_close(part.folded()(x), part(x))
    assert {name for name, _ in part.named_parameters()} == {"a", "b", "a_update", "b_update", *(["c"] if bias else [])}


def parts(view):
    generator, model = torch.Generator().manual_seed(0), view.model
    return [
        (Edit(name, {}, {}), FusedLinear(m, model.get_submodule(name.replace("layers.1", "layers.2")), 8, generator))
        for name, m in view.linears().items()
    ]


def test_the_start_is_plain_removal_and_training_never_ends_worse(view, monkeypatch):
    at = view(BLOCK)
    fusing = parts(at)
    alone = [(edit, module.folded()) for edit, module in fusing]
    for mine, theirs in zip(at.run(alone, at.holdout), at.run([], at.holdout), strict=True):
        torch.testing.assert_close(mine, theirs)
    at.holdout = at.fit  # random blocks have little to teach about others' text
    method = methods.get("fusegpt")
    removed = method.error(at, {}, [])
    train(at, fusing, steps=60)
    trained = method.error(at, {}, [(edit, module.folded()) for edit, module in fusing])
    assert trained < 0.8 * removed
    monkeypatch.setattr(fusegpt, "LR", 1e3)  # goes astray: the start stays
    astray = parts(at)
    train(at, astray, steps=4)
    assert method.error(at, {}, astray) == pytest.approx(removed)


def test_errors_are_relative_to_what_both_blocks_add(view):
    at = view(BLOCK)
    model, wrong, total = at.model, 0.0, 0.0
    hidden, mine = at.stream(at.holdout, 2), at.run([], at.holdout)
    for call, end, one in zip(at.holdout, hidden, mine, strict=True):
        wrong += float((one - end).double().square().sum())
        total += float((end - call.input).double().square().sum())
    assert methods.get("fusegpt").error(at, {}, []) == pytest.approx(wrong / total, rel=1e-5)
    assert len(model.model.layers) == 4


def test_a_fused_model_has_one_block_less_and_decides_what_it_changed(view, llama, activations):
    at, method = view(BLOCK), methods.get("fusegpt")
    made = method.build(at, {"rank": 4})
    paths = [edit.path for edit, _ in made]
    assert "model.layers.2" in paths
    assert sum(path.startswith("model.layers.1.") for path in paths) == 7
    found = decided_sites(activations.anatomy, at.site, made)
    assert {"layers.1.attn", "layers.1.ffn", "layers.2.attn", "layers.2.ffn", "layers.2.ffn_norm"} <= set(found)
    assert not any(name.startswith(("layers.0", "layers.3")) for name in found)
    student, ids = copy.deepcopy(llama), torch.arange(40)[None]
    apply(student, made)
    seen = []
    student.model.layers[3].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    expected = []
    student.model.layers[1].register_forward_hook(lambda _, args, out: expected.append(out))
    student(ids)
    torch.testing.assert_close(seen[0], expected[0] if isinstance(expected[0], torch.Tensor) else expected[0][0])


def test_blocks_without_two_behind_them_are_refused(view):
    method = methods.get("fusegpt")
    assert method.unsupported_reason(view(BLOCK)) is None
    assert "no block follows" in method.unsupported_reason(view("layers.3"))
