"""Sublayers dropped by how little they turn the stream: the score by hooks on the whole model, a planted one first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from torch import Tensor

from layersmith.anatomy import Replay, find_sites
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches
from layersmith.refitting.methods.drop.llm_drop import importance
from layersmith.runs.workspace import Workspace
from tests.anatomy.families import _DECODER, _ENCODER, BY_NAME
from tests.refitting.conftest import tiny_batches, tiny_llama

LAYERS = 4
#: What hooks saw: ("in" or "out", path of a module) -> (tokens, D) in float64.
Seen = dict[tuple[str, str], Tensor]


@pytest.fixture(scope="module")
def model():
    made = tiny_llama(layers=LAYERS).requires_grad_(False)
    made.model.layers[2].self_attn.o_proj.weight.zero_()
    return made


@pytest.fixture(scope="module")
def activations(model, tmp_path_factory):
    return calibrated(model, tiny_batches(), tmp_path_factory.mktemp("drop"))


def calibrated(model, batches, folder):
    anatomy = find_sites(model)
    found = Activations(Replay(model, anatomy), anatomy, batches, Workspace(folder / "run", {}))
    found.calibrate()
    return found


@torch.no_grad()
def by_hooks(model: Any, batches: list[dict[str, Tensor]], paths: list[str]) -> Seen:
    """What enters and leaves these modules in the whole model, at real tokens."""
    kept: dict[tuple[str, str], list[Tensor]] = {}
    real: list[Tensor] = []

    def keep(path: str) -> Callable[..., None]:
        def hook(module, args, kwargs, out):
            ends = (args[0] if args else kwargs["hidden_states"], out if isinstance(out, Tensor) else out[0])
            for side, x in zip(("in", "out"), ends, strict=True):
                kept.setdefault((side, path), []).append(x.flatten(0, 1)[real[-1]].double())

        return hook

    hooks = [model.get_submodule(p).register_forward_hook(keep(p), with_kwargs=True) for p in paths]
    for batch in batches:
        real.append(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).flatten().bool())
        model(**batch)
    for hook in hooks:
        hook.remove()
    return {key: torch.cat(parts) for key, parts in kept.items()}


def turned(before: Tensor, after: Tensor) -> float:
    return float((1 - F.cosine_similarity(before, after, dim=-1)).mean())


def llama(model: Any, batches: list[dict[str, Tensor]], path: str) -> tuple[dict[str, float], dict[str, float]]:
    """Of a block by hand, and what comes of taking the sublayers' own outputs off what leaves it; so are the others."""
    between = f"{path}.post_attention_layernorm"
    seen = by_hooks(model, batches, [path, between, f"{path}.self_attn", f"{path}.mlp"])
    x, y, z = seen["in", path], seen["in", between], seen["out", path]
    return {"attn": turned(x, y), "ffn": turned(y, z)}, careless(seen, path, f"{path}.self_attn", f"{path}.mlp")


def gemma(model: Any, batches: list[dict[str, Tensor]], path: str) -> tuple[dict[str, float], dict[str, float]]:
    between = f"{path}.pre_feedforward_layernorm"
    seen = by_hooks(model, batches, [path, between, f"{path}.self_attn", f"{path}.mlp"])
    x, y, z = seen["in", path], seen["in", between], seen["out", path]
    return {"attn": turned(x, y), "ffn": turned(y, z)}, careless(seen, path, f"{path}.self_attn", f"{path}.mlp")


def bert(model: Any, batches: list[dict[str, Tensor]], path: str) -> tuple[dict[str, float], dict[str, float]]:
    """Its norms are given the sums, and the first of them gives what the feed-forward reads."""
    first, second = f"{path}.attention.output.LayerNorm", f"{path}.output.LayerNorm"
    attention, feed_forward = f"{path}.attention.output.dense", f"{path}.output.dense"
    seen = by_hooks(model, batches, [path, first, second, attention, feed_forward])
    want = {"attn": turned(seen["in", path], seen["in", first]), "ffn": turned(seen["out", first], seen["in", second])}
    return want, careless(seen, path, attention, feed_forward)


def side_by_side(attention: str) -> Callable[..., tuple[dict[str, float], dict[str, float]]]:
    def by_hand(model, batches, path):
        seen = by_hooks(model, batches, [path, f"{path}.{attention}", f"{path}.mlp"])
        x, a, f = seen["in", path], seen["out", f"{path}.{attention}"], seen["out", f"{path}.mlp"]
        torch.testing.assert_close(seen["out", path], x + a + f, rtol=1e-4, atol=1e-4)
        want = {"attn": turned(x, x + a), "ffn": turned(x, x + f)}
        return want, careless(seen, path, f"{path}.{attention}", f"{path}.mlp")

    return by_hand


def careless(seen: Seen, path: str, attention: str, feed_forward: str) -> dict[str, float]:
    """As if every block were x + attention(norm(x)), then y + ffn(norm(y)), whatever is normed and who reads what."""
    entered, left = seen["in", path], seen["out", path]
    return {
        "attn": turned(entered, entered + seen["out", attention]),
        "ffn": turned(left - seen["out", feed_forward], left),
    }


def built(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The model with random weights far from those of a usual start, gains of its norms too."""
    torch.manual_seed(0)
    made = build().eval().requires_grad_(False)
    for weight in made.parameters():
        weight.copy_(3 * weight if weight.dim() > 1 else weight + 0.3 * torch.randn_like(weight))
    return made


GEMMA2 = {**_DECODER, "head_dim": 8, "sliding_window": 4}
#: Model, its blocks, the scores of one by hand, and the sublayers of which the careless formula tells something else.
BLOCKS = {
    "llama": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_DECODER)), "model.layers", llama, set()),
    "gemma2": (lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**GEMMA2)), "model.layers", gemma, {"attn", "ffn"}),
    "bert": (lambda: tf.BertForMaskedLM(tf.BertConfig(**_ENCODER)), "bert.encoder.layer", bert, {"ffn"}),
    "gpt_neox": (
        lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_ENCODER)),
        "gpt_neox.layers",
        side_by_side("attention"),
        {"ffn"},
    ),
    "phi": (  # one norm before both
        lambda: tf.PhiForCausalLM(tf.PhiConfig(**_ENCODER)),
        "model.layers",
        side_by_side("self_attn"),
        {"ffn"},
    ),
}


def small_batches(padded: bool = False) -> Batches:
    generator = torch.Generator().manual_seed(1)
    batches = [{"input_ids": torch.randint(5, 96, (2, 11), generator=generator)} for _ in range(5)]
    for batch in batches:
        if padded:
            batch["attention_mask"] = torch.ones(2, 11, dtype=torch.long)
            batch["attention_mask"][1, 8:] = 0
    return Batches(fit=batches[:2], holdout=batches[2:3], search=batches[3:4], report=batches[4:], heal=[])


@pytest.mark.parametrize("name", BLOCKS)
def test_the_score_is_that_of_what_a_sublayer_reads_and_adds(name, tmp_path):
    build, path, by_hand, misjudged = BLOCKS[name]
    model, batches = built(build), small_batches(padded=name == "bert")
    activations = calibrated(model, batches, tmp_path)
    for layer in range(2):
        want, wrong = by_hand(model, batches.fit, f"{path}.{layer}")
        assert {role for role in want if wrong[role] != pytest.approx(want[role], rel=0.01)} == misjudged
        for role, score in want.items():
            view, method = (
                activations.view(activations.anatomy.site(f"layers.{layer}.{role}"), 0),
                methods.get("llm_drop"),
            )
            assert method.unsupported_reason(view) is None
            assert importance(view) == pytest.approx(score, rel=1e-4)
            assert method.options(view) == [{"importance": pytest.approx(score, rel=1e-4)}]


def test_blocks_that_cannot_be_run_alone_are_scored_too(tmp_path):
    batches = small_batches()
    for part in (batches.fit, batches.holdout, batches.search):
        for batch in part:
            batch["decoder_input_ids"] = batch["input_ids"].roll(1, dims=1)
    model = BY_NAME["t5"].model().requires_grad_(False)
    activations = calibrated(model, batches, tmp_path)
    assert not activations.replay.exact
    attention, feed_forward = (f"encoder.block.1.layer.{i}" for i in range(2))
    seen = by_hooks(model, batches.fit, [attention, feed_forward])
    for role, path in (("attn", attention), ("ffn", feed_forward)):
        view = activations.view(activations.anatomy.site(f"encoder.layers.1.{role}"), 0)
        assert methods.get("llm_drop").unsupported_reason(view) is None
        assert importance(view) == pytest.approx(turned(seen["in", path], seen["out", path]), rel=1e-4)


def test_a_silent_sublayer_matters_nothing_although_a_norm_closes_its_sum(tmp_path):
    model, batches = built(BLOCKS["bert"][0]), small_batches(padded=True)
    for weight in model.bert.encoder.layer[1].attention.output.dense.parameters():
        weight.zero_()
    activations = calibrated(model, batches, tmp_path)
    view = activations.view(activations.anatomy.site("layers.1.attn"), 0)
    assert abs(importance(view)) < 1e-12


def test_a_silent_sublayer_of_a_llama_comes_first(activations):
    sites = [site for site in activations.anatomy.of_kind("mixer")]
    scores = {site.name: importance(activations.view(site, 0)) for site in sites}
    assert abs(scores.pop("layers.2.attn")) < 1e-12
    assert min(scores.values()) > 1e-3


def test_half_precision_scores_as_float32_does(model, activations, tmp_path):
    half = calibrated(copy.deepcopy(model).bfloat16(), tiny_batches(), tmp_path)
    for name in ("layers.1.attn", "layers.3.ffn"):
        view, same = half.view(half.anatomy.site(name), 0), activations.view(activations.anatomy.site(name), 0)
        assert methods.get("llm_drop").unsupported_reason(view) is None
        assert importance(view) == pytest.approx(importance(same), rel=0.05)


REFUSED = {
    "sublayers of layers.0 write does not add up": lambda: tf.GraniteForCausalLM(
        tf.GraniteConfig(**_DECODER, residual_multiplier=0.22)
    ),
    "does not run exactly once": BY_NAME["albert"].build,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_where_sublayers_add_up_to_something_else_they_are_refused(reason, tmp_path):
    activations = calibrated(built(REFUSED[reason]), small_batches(), tmp_path)
    for name in ("layers.0.attn", "layers.0.ffn"):
        view = activations.view(activations.anatomy.site(name), 0)
        assert reason in methods.get("llm_drop").unsupported_reason(view)


def test_the_least_important_go_first_and_nothing_is_measured():
    drawn = {"a": 0.3, "b": 0.0, "c": 0.1}
    candidates = [SimpleNamespace(site=site, settings={"importance": s}) for site, s in drawn.items()]

    def harm(mix):
        raise AssertionError("the rule goes by its score alone")

    found = [(asked, [c.site for c in mix]) for asked, mix in methods.get("llm_drop").rungs(candidates, harm)]
    assert found == [({"sites": 1}, ["b"]), ({"sites": 2}, ["b", "c"]), ({"sites": 3}, ["b", "c", "a"])]


def test_what_is_dropped_is_what_drop_drops(activations):
    view = activations.view(activations.anatomy.site("layers.1.attn"), 0)
    ours, theirs = (methods.get(name).build(view, settings) for name, settings in (("llm_drop", {}), ("drop", {})))
    assert [edit for edit, _ in ours] == [edit for edit, _ in theirs]
    assert len(ours) == 2, "the sublayer and its norm"
