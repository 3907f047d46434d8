"""Models in half and double precision: every method's candidates run in them, and a whole refit keeps their dtypes."""

import copy
import random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import layersmith.pocket
from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.head import with_head
from layersmith.measuring.divergence import divergence
from layersmith.refitting import methods
from layersmith.refitting.build.distill import distill
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches
from layersmith.refitting.candidate import pack, unpack
from layersmith.refitting.heal.distillation import HealSettings, heal
from layersmith.refitting.pipeline import refit
from layersmith.refitting.view import standing
from layersmith.runs.workspace import Workspace
from tests.anatomy.families import BY_NAME
from tests.refitting.conftest import tiny_batches, tiny_llama, token_batches
from tests.refitting.test_methods import SITE_OF, cases, statistics

DTYPES = [torch.bfloat16, torch.float16, torch.float64]


def stored_in(model, dtype):
    """The model as transformers loads it in a dtype: tables that are computed, not stored, stay float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def named(dtype):
    return str(dtype).removeprefix("torch.")


@pytest.fixture(scope="module", params=DTYPES, ids=named)
def calibrated(request, tmp_path_factory):
    model = tiny_llama().to(request.param)
    anatomy = with_head(model, find_sites(model))
    workspace = Workspace(tmp_path_factory.mktemp(named(request.param)) / "run", {})
    activations = Activations(Replay(model, anatomy), anatomy, tiny_batches(), workspace)
    activations.calibrate()
    yield activations
    workspace.close()


@pytest.mark.parametrize(("name", "kind"), cases())
def test_candidates_are_fitted_in_float32_and_run_in_the_dtype_of_the_model(calibrated, name, kind):
    model = calibrated.replay.model
    at = calibrated.view(calibrated.anatomy.site(SITE_OF[kind]), 0, statistics(name))
    method = methods.get(name)
    assert method.unsupported_reason(at) is None
    settings = method.options(at)[0]
    replacement = method.build(at, settings)
    assert all(y.dtype == torch.float32 for y in at.run(replacement, at.holdout))
    error = method.error(at, settings, replacement)
    again = unpack(*pack(at.as_stored(replacement)))
    assert {p.dtype for _, m in again for p in m.parameters()} <= {model.dtype}
    batch = token_batches(1)[0]
    with standing(model, again), torch.no_grad():
        logits = model(**batch).logits
    assert logits.dtype == model.dtype
    assert torch.isfinite(logits).all()
    assert error < 5.0


@pytest.mark.parametrize(("name", "settings"), [("width", {"keep": 0.5}), ("low_rank", {"keep": 0.5}), ("linear", {})])
def test_a_fit_is_as_good_as_in_float32(calibrated, activations, name, settings):
    """The same weights and text; what differs is what the model rounds, not what the method does."""
    method, errors = methods.get(name), []
    for made in (calibrated, activations):
        at = made.view(made.anatomy.site("layers.1.ffn"))
        replacement = method.build(at, settings)
        distill(at, replacement, steps=4)
        errors.append(method.error(at, settings, replacement))
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


def mixed_llama():
    """A body in bfloat16 between a float32 norm and a float32 head, as models are kept that are about to be trained."""
    model = tiny_llama(layers=2)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    stored_in(model, torch.bfloat16)
    model.model.norm.float()
    model.lm_head.float()
    return model


MODELS = {named(d): (lambda d=d: stored_in(tiny_llama(layers=2), d)) for d in DTYPES} | {"mixed": mixed_llama}


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=pytest.mark.real if n == "float16" else ()) for n in MODELS]
)
def finished(request, tmp_path_factory):
    """(the original, the folder, its result): a run whose original was handed over in that dtype."""
    rng = random.Random(0)
    words = ["stream", "of", "tokens", "block", "adds", "what", "it", "knows", "before", "passing", "on", "the"]
    paragraphs = [" ".join(rng.choice(words) for _ in range(40)) + f" number {i}." for i in range(400)]
    out = tmp_path_factory.mktemp(request.param)
    (out / "book.txt").write_text("\n\n".join(paragraphs))
    model = MODELS[request.param]()
    result = refit(
        model,
        budget={"params": 0.97},
        out=out / "run",
        data=str(out / "book.txt"),
        tokenizer=AutoTokenizer.from_pretrained(layersmith.pocket.path()),
        methods=["width", "kv_merge", "width_taylor"],
        at="prefill=1x32",
        heal_tokens=1024,
        effort=0.05,
        progress=False,
    )
    return model, out / "run", result


def test_a_run_keeps_the_dtypes(finished):
    model, out, result = finished
    assert result["chosen"]["meets_budget"]
    assert result["chosen"]["candidates"]
    assert result["heal"]["steps"] > 0
    stored = load_file(out / "model" / "model.safetensors")
    before = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    for name, tensor in stored.items():
        name = name.removeprefix("base.")
        assert tensor.dtype == before.get(name, tensor.dtype), name
    floats = {t.dtype for t in stored.values() if t.is_floating_point()}
    assert floats == set(before.values())
    if len(floats) == 1:  # transformers gives a model one dtype when it loads it
        assert result["reload_max_abs_diff"] == 0.0


def test_norms_in_float32_inside_a_body_in_bfloat16(tmp_path):
    """LayerNorms take and return what flows between the sublayers; so does what replaces them."""
    model = stored_in(BY_NAME["gpt2"].model(), torch.bfloat16).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.float()
    model.transformer.ln_f.bfloat16()
    anatomy = find_sites(model)
    few = [{"input_ids": torch.arange(96).view(2, 48) % 90}]
    workspace = Workspace(tmp_path / "run", {})
    activations = Activations(Replay(model, anatomy), anatomy, Batches(few, few, few, few, few), workspace)
    activations.calibrate()
    for site, name in (("layers.0.ffn_norm", "rms_norm"), ("layers.0.ffn_norm", "dyt"), ("layers.1.ffn", "width")):
        at = activations.view(anatomy.site(site))
        method = methods.get(name)
        stored = at.as_stored(method.build(at, method.options(at)[0]))
        with standing(model, stored), torch.no_grad():
            assert torch.isfinite(model(**few[0]).logits).all()
    workspace.close()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=named)
def test_healing_in_half_precision_is_as_good_as_in_float32(dtype):
    """Its steps are smaller than half precision holds; the state kept is measured as it will stand: rounded."""
    after = {}
    for given in (torch.float32, dtype):
        teacher = stored_in(tiny_llama(layers=2), given)
        hurt = copy.deepcopy(teacher)
        torch.manual_seed(1)
        hurt.model.layers[0].mlp.down_proj.weight += (0.1 * torch.randn(32, 64)).to(given)
        heldout = token_batches(3, seed=6)
        settings = HealSettings(40, lr=2e-4, check_every=10)
        batches = token_batches(8, seed=5)
        healing = heal(hurt.requires_grad_(True), teacher, find_sites(teacher), batches, heldout, settings)
        after[given] = divergence(teacher, hurt, heldout).value
        assert not healing.rolled_back
        assert after[given] == min(point["heldout_divergence"] for point in healing.curve)
        assert {p.dtype for p in hurt.parameters()} == {given}
        assert all(p.grad is None for p in hurt.parameters())
    before = healing.curve[0]["heldout_divergence"]
    assert before - after[dtype] == pytest.approx(before - after[torch.float32], rel=0.1)
