"""Every architecture: its sites are found, can be swapped, and the model is asked and measured as people do."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy import Anatomy, Replay, Site, find_sites, original, swap
from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.running import answering
from layersmith.errors import UserError
from layersmith.ffn.zero import Zero
from layersmith.measuring.latency import model_step
from layersmith.measuring.shape import Shape
from layersmith.mixer.softmax import SoftmaxAttention
from tests.architectures import asking
from tests.architectures.builders import Architecture
from tests.architectures.every import EVERY
from tests.architectures.mixtures import MIXTURES


def each(architectures: dict[str, Architecture]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("architecture", architectures.values(), ids=architectures.keys())


EACH = each(EVERY)
WRITERS = {name: a for name, a in EVERY.items() if getattr(tf, a.model_class).can_generate()}
#: Mamba refuses to be asked for attention weights, which it has not.
ATTENDING = {name: a for name, a in EVERY.items() if name not in ("mamba", "mamba2")}

PRE, POST = "attn_norm attn ffn_norm ffn", "attn attn_norm ffn ffn_norm"
GEMMA = "attn_norm attn attn_post_norm ffn_norm ffn ffn_post_norm"
MIXER, FFN, PARALLEL = "attn_norm attn", "ffn_norm ffn", "attn_norm attn ffn"
#: RWKV's and SegFormer's feed-forwards read neighbouring tokens, so they are mixers.
TWO_MIXERS = "attn_norm attn attn2_norm attn2"
CROSS_POST = "attn attn_norm cross_attn cross_attn_norm ffn ffn_norm"
CROSS_PRE = "attn_norm attn cross_attn_norm cross_attn ffn_norm ffn"

#: The sites of each block, where they are not those of a pre-norm transformer.
ROLES: dict[str, list[str]] = {
    "gemma2": [GEMMA] * 2,
    "gemma3": [GEMMA] * 2,
    "falcon": [PARALLEL] * 2,
    "gptj": [PARALLEL] * 2,
    "openai_gpt": [POST] * 2,
    "granite_hybrid": [f"{PRE} ffn2"] * 2,
    "mamba": [MIXER] * 2,
    "mamba2": [MIXER] * 2,
    "rwkv": ["attn_norm attn_norm2 attn attn2_norm attn2", TWO_MIXERS],
    "recurrent_gemma": [PRE] * 3,
    "nemotron_h": [MIXER, FFN, MIXER, FFN],
    "bert": [POST] * 2,
    "bert_tokens": [POST] * 2,
    "roberta": [POST] * 2,
    "modernbert": ["attn ffn_norm ffn", PRE],
    "deberta_v2": [POST] * 2,
    "albert": [POST],
    "electra": [POST] * 2,
    "t5": [PRE] * 2 + [CROSS_PRE] * 2,
    "bart": [POST] * 2 + [CROSS_POST] * 2,
    "marian": [POST] * 2 + [CROSS_POST] * 2,
    "whisper": [PRE] * 2 + [CROSS_PRE] * 2,
    "swin": [PRE] * 4,
    "segformer": [TWO_MIXERS] * 4,
    "clip": [PRE] * 4,
    "wav2vec2": [POST] * 2,
}
#: Tokens a model can take, where it is not the 64 positions of its config.
LONGEST: dict[str, int | None] = {
    "roberta": 62,  # the first two rows of its table are never used
    "whisper": 32,
    "rwkv": 1024,
    **dict.fromkeys(("bloom", "mamba", "mamba2", "t5", "vit", "dinov2", "swin", "segformer", "wav2vec2")),
}
#: Experts multiplied by torch's grouped matrix product, which knows no float64.
NO_DOUBLES = {"mixtral", "granite_moe", "granite_hybrid", "qwen3_moe", "qwen3_next", "gpt_oss", "deepseek_v2"}
#: What holds no cache that could be handed back.
NO_CACHE = {"openai_gpt"}


@EACH
def test_the_sites_are_those_of_the_architecture(architecture: Architecture) -> None:
    model = architecture.model()
    anatomy = find_sites(model)
    found = [" ".join(s.role for s in anatomy.in_block(b.name)) for b in anatomy.of_kind("block")]
    assert found == ROLES.get(architecture.name, [PRE] * 2)
    assert any("experts" in note for note in anatomy.notes) == (architecture.name in MIXTURES)
    placed = tuple(f"{path}." for s in anatomy.sites if s.kind != "block" for path in s.modules)
    notes = " ".join(anatomy.notes)
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0]
        pattern = ".".join("*" if piece.isdigit() else piece for piece in owner.split("."))
        assert name.startswith(placed) or owner in notes or pattern in notes, name


@EACH
@pytest.mark.parametrize("kinds", [("ffn", "mixer", "norm"), ("block",)], ids=["sublayers", "blocks"])
def test_copies_change_nothing(architecture: Architecture, kinds: tuple[str, ...]) -> None:
    """At every site at once: not one bit of the outputs, nor of what is written with a cache."""
    model = architecture.model()
    anatomy, inputs = find_sites(model), example_inputs(model)
    before = asking.tensors(model, inputs)
    text = asking.written(model, inputs) if asking.writes(model) else torch.empty(0)
    with swap(model, {s: copy.deepcopy(original(model, s)) for s in anatomy.sites if s.kind in kinds}, anatomy):
        assert asking.same(asking.tensors(model, inputs), before)
        if asking.writes(model):
            assert torch.equal(asking.written(model, inputs), text)
    assert asking.same(asking.tensors(model, inputs), before)


def one_of_each(model: nn.Module, anatomy: Anatomy) -> list[Site]:
    """One open site for each kind of sublayer the model has."""
    kinds: dict[Any, Site] = {}
    for site in anatomy.sites:
        if not site.locked:
            kinds.setdefault((site.kind, site.cross, type(model.get_submodule(site.modules[0]))), site)
    return list(kinds.values())


@EACH
def test_every_kind_of_sublayer_can_be_taken_out(architecture: Architecture) -> None:
    """The outputs change and stay finite; text written with a cache is the text written without one."""
    model = architecture.model()
    anatomy, inputs = find_sites(model), example_inputs(model)
    before = asking.tensors(model, inputs)
    # RWKV's own two ways of writing differ.
    agree = asking.writes(model) and torch.equal(asking.written(model, inputs), asking.written(model, inputs, False))
    for site in one_of_each(model, anatomy):
        with swap(model, {site: Zero(site.d_model)}, anatomy):
            after = asking.tensors(model, inputs)
            assert all(t.isfinite().all() for t in after), site.name
            assert not asking.same(after, before), site.name
            if asking.writes(model):
                text = asking.written(model, inputs)
                assert not agree or torch.equal(text, asking.written(model, inputs, False)), site.name


@EACH
def test_every_kind_of_mixer_can_be_replaced(architecture: Architecture) -> None:
    """By attention of ours, whose state travels in the model's own cache or is refused."""
    model = architecture.model()
    anatomy, inputs = find_sites(model), example_inputs(model)
    for site in one_of_each(model, anatomy):
        if site.kind not in ("mixer", "block") or site.cross:
            continue
        torch.manual_seed(0)
        with swap(model, {site: SoftmaxAttention(site.d_model, 4, causal=site.causal)}, anatomy):
            assert all(t.isfinite().all() for t in asking.tensors(model, inputs)), site.name
            if not asking.writes(model) or not site.causal:
                continue
            if architecture.name == "rwkv":
                with pytest.raises(UserError, match="state"):
                    asking.written(model, inputs)
            else:
                assert torch.equal(asking.written(model, inputs), asking.written(model, inputs, False)), site.name


@each(ATTENDING)
def test_as_many_entries_as_before(architecture: Architecture) -> None:
    """Of hidden states and attention weights, whatever was replaced, inside a swap and after it."""
    model = replace(architecture, attention="eager").model()
    expected = asking.counted(copy.deepcopy(model), example_inputs(model))
    assert expected
    anatomy, inputs = find_sites(model), example_inputs(model)
    for site in one_of_each(model, anatomy):
        with swap(model, {site: Zero(site.d_model)}, anatomy):
            assert asking.counted(model, inputs) == expected, site.name
        assert asking.counted(model, inputs) == expected, site.name


@EACH
def test_the_longest_input(architecture: Architecture) -> None:
    """It is what the model takes; a learned table takes no more."""
    model = architecture.model()
    longest = longest_input(model)
    assert longest == LONGEST.get(architecture.name, 64)
    if longest is not None and model.main_input_name == "input_ids":
        asking.tensors(model, example_inputs(model, 1, longest))
        if architecture.name in ("opt", "gpt2", "openai_gpt", "mpt", "bert", "roberta", "bart", "marian"):
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                asking.tensors(model, example_inputs(model, 1, longest + 1))


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_dtype_does_not_matter(architecture: Architecture, dtype: torch.dtype) -> None:
    """The same sites; where a model does not run in a dtype, that is said."""
    model = architecture.model()
    expected = find_sites(model)
    model = model.to(dtype)
    if dtype == torch.float64 and architecture.name in NO_DOUBLES:
        with pytest.raises(UserError, match="does not run"):
            find_sites(model)
        return
    anatomy = find_sites(model)
    assert anatomy.sites == expected.sites
    exact = Replay(model, anatomy).exact
    assert exact == Replay(model.float(), anatomy).exact


@EACH
def test_inside_inference_mode(architecture: Architecture) -> None:
    model = architecture.model()
    expected, inputs = find_sites(model), example_inputs(model)
    fresh = architecture.model()
    with torch.inference_mode():
        assert find_sites(fresh) == expected
        site = next(s for s in expected.sites if not s.locked)
        with swap(fresh, {site: copy.deepcopy(original(fresh, site))}):
            assert asking.same(asking.tensors(fresh, inputs), asking.tensors(model, inputs))


@each(WRITERS)
def test_a_step_of_decoding(architecture: Architecture) -> None:
    """Measured with the cache that the model has, or refused with a reason."""
    model = architecture.model()
    with answering(model):
        if architecture.name in NO_CACHE:
            with pytest.raises(UserError, match="returns no cache"):
                model_step(model, Shape("decode", 1, 6))
        else:
            step = model_step(model, Shape("decode", 1, 6))
            step()
            assert step().logits.shape[:2] == (1, 1)
