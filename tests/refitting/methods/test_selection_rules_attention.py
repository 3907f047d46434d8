"""Which heads and blocks go, and where norms stay, against rules written out by hand (see `test_selection_rules`)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.methods.prune.heads import DAMP
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_batches
from tests.refitting.methods.by_hand import (
    View,
    best,
    built,
    distinct,
    numbers,
    ridge_by_hand,
)


def attention(bias=True, heads=8, kv_heads=4, head_dim=4):
    torch.manual_seed(0)
    full = SoftmaxAttention(16, heads, kv_heads, head_dim, bias=bias, rope_theta=10000.0).eval()
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.copy_(torch.randn_like(parameter))
    found = SimpleNamespace(operator=full, parts={"o": "o"})
    return View(attention=found, site=SimpleNamespace(d_model=16, kind="mixer"))


def test_kv_merge_pools_neighbours_of_four_heads():
    at = attention()
    full = at.attention.operator
    part = built("kv_merge", at, {"kv_heads": 2})
    for name in ("k", "v"):
        for new in range(2):
            for row in range(4):
                for inputs, found in ((numbers(getattr(full, name).weight), numbers(getattr(part, name).weight)),):
                    pair = [inputs[(2 * new + old) * 4 + row] for old in (0, 1)]
                    wanted = [(a + b) / 2 for a, b in zip(*pair, strict=True)]
                    assert found[new * 4 + row] == pytest.approx(wanted, abs=1e-6)
                biases, found = numbers(getattr(full, name).bias), numbers(getattr(part, name).bias)
                pair = [biases[(2 * new + old) * 4 + row] for old in (0, 1)]
                assert found[new * 4 + row] == pytest.approx(sum(pair) / 2, abs=1e-6)


def test_kv_merge_of_four_heads_is_exact_where_the_two_that_are_merged_are_equal():
    at = attention()
    full = at.attention.operator
    with torch.no_grad():
        for linear in (full.k, full.v):
            for old in (0, 2):
                rows, copies = slice(old * 4, old * 4 + 4), slice(old * 4 + 4, old * 4 + 8)
                linear.weight[copies], linear.bias[copies] = linear.weight[rows], linear.bias[rows]
    x = torch.randn(2, 9, 16)
    expected, _ = full(x)
    found, _ = built("kv_merge", at, {"kv_heads": 2})(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def greedy_by_hand(gram, weight, pools, width, left):
    """Heads that stay: of all that may go, the one goes whose absence costs least once all others are refitted."""
    remaining = [list(pool) for pool in pools]

    def cost(units):
        columns = [u * width + i for u in units for i in range(width)]
        kept, mixed = gram[np.ix_(columns, columns)], weight @ gram[:, columns]
        return np.trace(weight @ gram @ weight.T) - np.trace(mixed @ np.linalg.solve(kept, mixed.T))

    while any(len(pool) > left for pool in remaining):
        trials = {}
        for pool in remaining:
            for unit_ in pool if len(pool) > left else ():
                trials[unit_] = cost(sorted(u for p in remaining for u in p if u != unit_))
        goes = min(trials, key=trials.__getitem__)
        remaining = [[u for u in pool if u != goes] for pool in remaining]
    return sorted(u for pool in remaining for u in pool)


@pytest.mark.parametrize(
    ("settings", "pools", "width"),
    [({"groups": 2}, [range(4)], 8), ({"queries": 1}, [(0, 1), (2, 3), (4, 5), (6, 7)], 4)],
)
def test_heads_go_in_the_order_of_what_their_absence_costs_the_refitted_output(settings, pools, width):
    at = attention(bias=False)
    full = at.attention.operator
    torch.manual_seed(3)
    z = torch.randn(200, 32) @ torch.randn(32, 32) + 4 * torch.rand(32)  # heads overlap, and have large means
    at.grams, at.means = {"o": z.T @ z / 200}, {"o": z.mean(0)}
    centred = (z - z.mean(0)).double().numpy()
    gram = centred.T @ centred / 200
    gram += DAMP * np.diag(gram).mean() * np.eye(32)
    weight = full.o.weight.detach().double().numpy()
    (left,) = settings.values()
    kept = greedy_by_hand(gram, weight, pools, width, left)
    raw = (z.double().T @ z.double() / 200).numpy()
    units = [slice(u * width, (u + 1) * width) for u in range(32 // width)]
    sizes = [np.trace(weight[:, u] @ gram[u, u] @ weight[:, u].T) for u in units]
    if len(pools) == 1:
        distinct(kept, without_refitting=best(sizes, left), cheapest_stay=best([-s for s in sizes], left))
    else:
        distinct(kept, first_of_each=[0, 2, 4, 6], second_of_each=[1, 3, 5, 7])
    part = built("heads", at, settings)
    rows = [u * width + i for u in kept for i in range(width)]
    assert torch.equal(part.q.weight, full.q.weight[rows])
    kv = sorted({row // 8 for row in rows})
    assert torch.equal(part.k.weight, full.k.weight[[4 * h + i for h in kv for i in range(4)]])
    refitted = (weight @ gram[:, rows]) @ np.linalg.inv(gram[np.ix_(rows, rows)])
    np.testing.assert_allclose(numbers(part.o.weight), refitted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        numbers(part.o.bias), weight @ numbers(z.mean(0)) - refitted @ np.asarray(numbers(z.mean(0)))[rows], atol=1e-3
    )
    assert not np.allclose(raw, gram)


def test_span_folds_the_map_from_the_feed_forward_to_what_left_the_dropped_blocks(llama, activations):
    at = activations.view(activations.anatomy.site("layers.0.ffn"))
    stream_, feed_forward = [], []
    hooks = [llama.model.layers[0].mlp.register_forward_hook(lambda m, a, out: feed_forward.append(out))]
    with torch.no_grad():
        for batch in tiny_batches().fit:
            stream_.append(llama(**batch, output_hidden_states=True).hidden_states)
    hooks[0].remove()
    f = torch.cat([out.flatten(0, 1) for out in feed_forward]).double().numpy()
    after_own, after_two = (torch.cat([h[i].flatten(0, 1) for h in stream_]).double().numpy() for i in (1, 3))
    transform = ridge_by_hand(f, after_two - (after_own - f), 1e-3)
    weight = llama.model.layers[0].mlp.down_proj.weight.double().numpy()
    replacement = methods.get("span").build(at, {"blocks": 2})
    wanted = transform @ weight
    np.testing.assert_allclose(
        numbers(replacement[0][1].linear.weight), wanted, rtol=2e-2, atol=2e-3 * abs(wanted).max()
    )
    assert [edit.path for edit, _ in replacement] == [
        "model.layers.0.mlp.down_proj",
        "model.layers.1",
        "model.layers.2",
    ]
    distinct(
        round(float(wanted[0, 0]), 3),
        one_block_short=round(float((ridge_by_hand(f, after_own, 1e-3) @ weight)[0, 0]), 3),
        without_what_was_there=round(float((ridge_by_hand(f, after_two, 1e-3) @ weight)[0, 0]), 3),
    )


def test_a_norm_that_two_sublayers_read_stays_when_one_of_them_is_dropped(tmp_path):
    """GPT-J's form: attention and feed-forward side by side behind one norm."""
    from transformers import GPTJConfig, GPTJForCausalLM

    torch.manual_seed(0)
    config = GPTJConfig(vocab_size=96, n_embd=32, n_layer=2, n_head=4, rotary_dim=8, n_positions=64)
    model = GPTJForCausalLM(config).eval().requires_grad_(False)
    anatomy, workspace = find_sites(model), Workspace(tmp_path / "run", {})
    few = tiny_batches()
    few = type(few)(*([{"input_ids": b["input_ids"] % 90} for b in batch] for batch in vars(few).values()))
    activations = Activations(Replay(model, anatomy), anatomy, few, workspace)
    activations.calibrate()
    for name in ("attn", "ffn"):
        at = activations.view(anatomy.site(f"layers.1.{name}"))
        replacement = methods.get("drop").build(at, {})
        assert [edit.path for edit, _ in replacement] == list(at.site.modules)
    workspace.close()
