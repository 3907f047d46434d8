"""Blocks dropped by their influence: the score by loops over what hooks saw, and the order in which they go."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.edit import apply, restore
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.methods.drop.shortgpt import influence
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_batches, tiny_llama
from tests.refitting.methods.by_hand import distinct

LAYERS, PLANTED = 4, 2


@pytest.fixture(scope="module")
def model():
    """A Llama whose third block writes nothing."""
    made = tiny_llama(layers=LAYERS).requires_grad_(False)
    made.model.layers[PLANTED].self_attn.o_proj.weight.zero_()
    made.model.layers[PLANTED].mlp.down_proj.weight.zero_()
    return made


@pytest.fixture(scope="module")
def batches():
    """Text of which the ends of some rows are padding."""
    made = tiny_batches()
    for batch in [*made.fit, *made.holdout, *made.search]:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch["attention_mask"][0, 17:] = 0
    return made


@pytest.fixture(scope="module")
def activations(model, batches, tmp_path_factory):
    anatomy = find_sites(model)
    found = Activations(
        Replay(model, anatomy), anatomy, batches, Workspace(tmp_path_factory.mktemp("short") / "run", {})
    )
    found.calibrate()
    return found


def cosine(x, y):
    """Of two lists of numbers."""
    dot, xx, yy = (sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((x, y), (x, x), (y, y)))
    return dot / math.sqrt(xx * yy)


def influence_by_hand(before, after):
    """1 - mean cosine of the rows of two (tokens, D) lists."""
    return 1 - sum(map(cosine, before, after)) / len(before)


@torch.no_grad()
def around_blocks(model, batches):
    """[(rows that enter, rows that leave) of each block], at real tokens."""
    found = [([], []) for _ in model.model.layers]
    real = []

    def keep(index):
        def hook(module, args, out):
            for rows, x in zip(found[index], (args[0], out if isinstance(out, torch.Tensor) else out[0]), strict=True):
                rows += x[real[-1]].double().tolist()

        return hook

    hooks = [layer.register_forward_hook(keep(i)) for i, layer in enumerate(model.model.layers)]
    for batch in batches:
        real.append(batch["attention_mask"].bool())
        model(**batch)
    for hook in hooks:
        hook.remove()
    return found


def test_the_influence_is_that_of_what_enters_and_leaves_each_block(model, batches, activations):
    method, scores = methods.get("shortgpt"), []
    for i, (before, after) in enumerate(around_blocks(model, batches.fit)):
        view = activations.view(activations.anatomy.site(f"layers.{i}"), 0)
        assert method.unsupported_reason(view) is None
        scores.append(influence(view))
        assert scores[-1] == pytest.approx(influence_by_hand(before, after), rel=1e-5, abs=1e-12)
        assert method.options(view) == [{"influence": pytest.approx(scores[-1], rel=1e-5, abs=1e-12)}]
    assert abs(scores.pop(PLANTED)) < 1e-12 < 1e-3 < min(scores)


def blocks_that_tell_rules_apart():
    """Name -> (what enters, what leaves) of blocks that other scores would put into another order."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    across = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    across -= (across * x).sum(-1, keepdim=True) / x.square().sum(-1, keepdim=True) * x
    across *= x.norm(dim=-1, keepdim=True) / across.norm(dim=-1, keepdim=True)
    few = (torch.arange(40) < 4)[:, None]
    large = torch.where(few, 10 * x, x)
    return {
        "rescaled": (x, 5 * x),
        "turned a little": (x, 0.5 * (x + 0.35 * across)),
        "few turned far": (large, torch.where(few, -large + across, large)),
        "shortened and turned": (x, 0.1 * (x + 0.8 * across)),
        "turned": (10 * x, 10 * (x + 0.7 * across)),
    }


def least_first(scores):
    return sorted(scores, key=scores.get)


def test_the_blocks_of_least_influence_go_first_and_nothing_is_measured():
    blocks = blocks_that_tell_rules_apart()
    want = least_first({name: influence_by_hand(x.tolist(), y.tolist()) for name, (x, y) in blocks.items()})
    cosines = {name: torch.cosine_similarity(x, y, dim=-1) for name, (x, y) in blocks.items()}
    distinct(
        want,
        most=want[::-1],
        angle=least_first({name: float(each.clamp(-1, 1).arccos().mean()) for name, each in cosines.items()}),
        added=least_first({name: float((y - x).norm() / x.norm()) for name, (x, y) in blocks.items()}),
        length=least_first({name: abs(float(y.norm() / x.norm()) - 1) for name, (x, y) in blocks.items()}),
        one_cosine_of_all=least_first(
            {n: -float(torch.cosine_similarity(x.flatten(), y.flatten(), dim=0)) for n, (x, y) in blocks.items()}
        ),
        of_what_is_added=least_first(
            {n: -float(torch.cosine_similarity(x, y - x, dim=-1).mean()) for n, (x, y) in blocks.items()}
        ),
    )
    method = methods.get("shortgpt")
    views = {name: SimpleNamespace(inputs=x, outputs=y) for name, (x, y) in blocks.items()}
    candidates = [SimpleNamespace(site=name, settings=method.options(view)[0]) for name, view in views.items()]

    def harm(mix):
        raise AssertionError("the rule goes by its score alone")

    found = [(asked, [c.site for c in mix]) for asked, mix in method.rungs(candidates, harm)]
    assert found == [({"sites": n}, want[:n]) for n in range(1, len(want) + 1)]
    assert candidates[0].settings == {"influence": pytest.approx(0, abs=1e-12)}, "a change of length is none"


@torch.no_grad()
def test_a_dropped_block_hands_on_what_enters_it(model, batches, activations):
    batch = batches.report[0]
    before = model(**batch).logits
    for index, same in ((PLANTED, True), (1, False)):
        view = activations.view(activations.anatomy.site(f"layers.{index}"), 0)
        kept = apply(model, methods.get("shortgpt").build(view, {"influence": 0.5}))
        try:
            after = model(**batch).logits
        finally:
            restore(model, kept)
        assert torch.allclose(after, before, atol=1e-5) == same
