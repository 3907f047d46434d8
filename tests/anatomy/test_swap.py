"""swap: copies change nothing, other operators change what they should, and nothing is left behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from layersmith.anatomy import Anatomy, Replay, find_sites, original, replacement_for, swap
from layersmith.anatomy import edit as edits
from layersmith.contract import Mixer
from layersmith.errors import UserError
from layersmith.ffn.affine import Affine
from layersmith.ffn.zero import Zero
from layersmith.linear.low_rank import LowRank
from tests.anatomy.families import BY_NAME, FAMILIES, Family

EVERY = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)


def logits(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        out = model(**inputs)
    return out if isinstance(out, Tensor) else out.logits


def generated(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    main = "input_features" if "input_features" in inputs else "input_ids"
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "use_cache": True}
    return model.generate(inputs[main], **settings)


def copies(model: nn.Module, anatomy: Anatomy, kinds: tuple[str, ...]) -> dict[Any, nn.Module]:
    return {s: copy.deepcopy(original(model, s)) for s in anatomy.sites if s.kind in kinds}


@EVERY
@pytest.mark.parametrize("kinds", [("ffn", "mixer", "norm"), ("block",)], ids=["sublayers", "blocks"])
def test_identity_swap(family: Family, kinds: tuple[str, ...]) -> None:
    """Every site replaced by its own copy: not one bit of the output changes, with and without a cache."""
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    modules = dict(model.named_modules())
    expected = logits(model, inputs)
    written = generated(model, inputs) if family.generates else None
    with swap(model, copies(model, anatomy, kinds), anatomy):
        assert all(
            model.get_submodule(path) is not modules[path]
            for site in anatomy.sites
            if site.kind in kinds
            for path in site.modules
        )
        assert torch.equal(logits(model, inputs), expected)
        if written is not None:
            assert torch.equal(generated(model, inputs), written)
    assert dict(model.named_modules()) == modules


@EVERY
def test_every_site_matters(family: Family) -> None:
    """The identity swap would pass on sites that nobody reads; here each one is replaced by zeros and is missed."""
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    expected = logits(model, inputs)
    for site in anatomy.sites:
        if not site.locked:
            with swap(model, {site: Zero(site.d_model)}, anatomy):
                changed = logits(model, inputs)
            assert changed.isfinite().all(), site.name
            assert not torch.allclose(changed, expected, rtol=0, atol=1e-6), site.name
    assert torch.equal(logits(model, inputs), expected)


@EVERY
def test_an_operator_does_the_whole_work_of_its_site(family: Family) -> None:
    """An operator that computes what the original does, from outside: same output, whatever the site's modules are."""
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    site = next(s for s in anatomy.sites if s.kind == "ffn")
    affine = Affine(site.d_model)
    for parameter in affine.parameters():
        nn.init.normal_(parameter, std=0.1)
    by_hand = copy.deepcopy(original(model, site))
    _make_affine(by_hand, affine)
    with swap(model, {site: by_hand}, anatomy):
        expected = logits(model, inputs)
    with swap(model, {site: affine}, anatomy):
        assert torch.allclose(logits(model, inputs), expected, rtol=0, atol=1e-5)


def _make_affine(module: nn.Module, affine: Affine) -> None:
    """Let any module return what `affine` makes of its input."""
    module.register_forward_hook(lambda m, args, output: affine(args[0]))


class Average(Mixer):
    """The mean of all tokens up to this one, or of all."""

    streams = False

    def __init__(self, d_model: int, causal: bool = True):
        super().__init__()
        self.causal = causal
        self.scale = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, None]:
        count = torch.arange(1, x.shape[1] + 1, device=x.device).view(1, -1, 1)
        running = x.cumsum(1) / count
        return self.scale * (running if self.causal else x.mean(1, keepdim=True).expand_as(x)), None


@EVERY
def test_a_mixer_at_every_attention(family: Family) -> None:
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    expected = logits(model, inputs)
    inputs = {**inputs, "use_cache": False} if family.generates else inputs
    sites = [s for s in anatomy.of_kind("mixer") if not s.cross and not s.locked]
    with swap(model, {s: Average(s.d_model, causal=s.causal) for s in sites}, anatomy):
        changed = logits(model, inputs)
        assert changed.shape == expected.shape
        assert not torch.allclose(changed, expected, atol=1e-4)
        if family.causal == ("",):
            later = dict(inputs, input_ids=inputs["input_ids"].clone())
            later["input_ids"][:, -1] = 7
            assert torch.equal(logits(model, later)[:, :-1], changed[:, :-1])


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "albert", "torch_pre_norm", "torch_post_norm"])
def test_padding_reaches_the_operator(name: str) -> None:
    family = BY_NAME[name]
    model, inputs = family.model(), family.inputs()
    padding = torch.zeros(2, 11, dtype=torch.bool)
    padding[1, 8:] = True
    torch_style = name.startswith("torch")
    inputs |= {"src_key_padding_mask": padding} if torch_style else {"attention_mask": (~padding).long()}
    anatomy = find_sites(model)
    seen = []

    class Spy(Average):
        def forward(self, x: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, None]:
            seen.append(mask)
            return super().forward(x, state, mask)

    site = anatomy.of_kind("mixer")[0]
    with swap(model, {site: Spy(site.d_model, causal=False)}, anatomy):
        logits(model, inputs)
    assert seen
    assert all(torch.equal(mask, ~padding) for mask in seen)


def test_generating_with_a_dropped_attention_and_a_dropped_block() -> None:
    """With a cache and without: the same text."""
    family = BY_NAME["llama"]
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    for name in ("layers.0.attn", "layers.1.attn", "layers.0", "layers.1"):
        with swap(model, {name: Zero(32)}, anatomy):
            with_cache = model.generate(inputs["input_ids"], use_cache=True, **settings)
            assert torch.equal(with_cache, model.generate(inputs["input_ids"], use_cache=False, **settings)), name


def test_edits_build_the_same_model_again() -> None:
    """What `replacement_for` returns can be applied to a fresh, unopened model through JSON."""
    for name in ("opt", "albert", "torch_post_norm", "bert"):
        family = BY_NAME[name]
        model, inputs = family.model(), family.inputs()
        anatomy = find_sites(model)
        site = next(s for s in anatomy.sites if s.kind == "ffn")
        replacement = replacement_for(model, site, Affine(site.d_model))
        with swap(model, {site: replacement[0][1]}, anatomy):
            expected = logits(model, inputs)
        fresh = family.model()
        loaded = [edits.Edit.from_json(edit.to_json()) for edit, _ in replacement]
        edits.apply(fresh, [(e, m) for e, (_, m) in zip(loaded, replacement, strict=True)])
        assert torch.equal(logits(fresh, inputs), expected)


def test_swapping_twice() -> None:
    """A site that holds an operator already can get another one, adapted in the same way."""
    family = BY_NAME["gpt2"]
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    with swap(model, {"layers.0.attn": Zero(32)}, anatomy):
        expected = logits(model, inputs)
    with swap(model, {"layers.0.attn": Average(32)}, anatomy), swap(model, {"layers.0.attn": Zero(32)}, anatomy):
        assert torch.equal(logits(model, inputs), expected)
        written = generated(model, inputs)
    assert written.shape == (2, 19)


def test_everything_is_restored_after_an_exception() -> None:
    family = BY_NAME["opt"]
    model = family.model()
    modules = dict(model.named_modules())
    with pytest.raises(RuntimeError, match="inside"), swap(model, {"layers.0.ffn": Zero(32)}):
        raise RuntimeError("inside")
    assert dict(model.named_modules()) == modules


def test_modes_follow_the_original() -> None:
    model = BY_NAME["llama"].model()
    module = Zero(32).train()
    with swap(model, {"layers.0.attn": module}):
        assert not any(m.training for m in model.modules())


@pytest.mark.parametrize(
    ("name", "site", "module", "message"),
    [
        ("llama", "layers.0.attn", Average(32, causal=False), "causal"),
        ("llama", "layers.0", Average(32, causal=False), "causal"),
        ("llama", "layers.0.ffn", Average(32), "ffn site"),
        ("llama", "layers.0.attn_norm", Average(32), "norm site"),
        ("llama", "layers.0.ffn", Zero(16), "width 16"),
        ("llama", "layers.0.ffn", LowRank(32, 48, 4), "width 32 -> 48"),
        ("llama", "layers.0.fnn", Zero(32), "layers.0.ffn"),
        ("whisper", "decoder.layers.0.cross_attn", Average(32), "cross-attention"),
        ("whisper", "decoder.layers.0.attn", Average(32, causal=False), "causal"),
        ("t5", "encoder.layers.0.attn", Zero(32), "later blocks"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, site: str, module: nn.Module, message: str) -> None:
    model = BY_NAME[name].model()
    modules = dict(model.named_modules())
    with pytest.raises(UserError, match=message), swap(model, {site: module}):
        pass
    assert dict(model.named_modules()) == modules


def test_a_block_and_a_sublayer_of_it_cannot_both_be_replaced() -> None:
    model = BY_NAME["llama"].model()
    with (
        pytest.raises(UserError, match="inside it"),
        swap(model, {"layers.0": Zero(32), "layers.0.ffn": Zero(32)}),
    ):
        pass


@pytest.mark.real
@pytest.mark.parametrize("name", ["minilm", "albert", "smollm2"])
def test_identity_swap_of_a_trained_model(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(f"{name}_path")
    if name == "smollm2":
        model = tf.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    else:
        model = tf.AutoModelForMaskedLM.from_pretrained(path)
    model.eval()
    tokens = torch.randint(20, model.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens}
    expected = logits(model, inputs)
    anatomy = find_sites(model)
    assert torch.equal(logits(model, inputs), expected)
    written = generated(model, inputs) if name == "smollm2" else None
    for kinds in (("ffn", "mixer", "norm"), ("block",)):
        with swap(model, copies(model, anatomy, kinds), anatomy):
            assert torch.equal(logits(model, inputs), expected)
            assert written is None or torch.equal(generated(model, inputs), written)
    replay = Replay(model, anatomy)
    with torch.no_grad():
        hidden = replay.block_inputs(inputs)
        for start in (0, len(hidden) // 2, len(hidden) - 1):
            assert torch.equal(replay.run_from(start, hidden[start], inputs).logits, expected)
