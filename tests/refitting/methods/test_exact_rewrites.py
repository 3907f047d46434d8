"""Exact rewrites: equal outputs on every kind of model they are offered for, refused elsewhere, saved and reloaded."""

import pytest
import torch

import layersmith
from layersmith import checkpoint
from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import apply
from layersmith.anatomy.norms import as_rms_norm
from layersmith.anatomy.twin import twin
from layersmith.refitting import methods
from layersmith.refitting.view import Call, SublayerView
from tests.anatomy.families import BY_NAME

NAMES = ("fused_attention", "fused_glu", "fused_norm")
#: What applies where, at some site of the model.
APPLIES = {
    "llama": {"fused_attention", "fused_glu", "fused_norm"},
    "mistral": {"fused_attention", "fused_glu", "fused_norm"},
    "qwen2": {"fused_attention", "fused_glu", "fused_norm"},
    "qwen3": {"fused_attention", "fused_glu", "fused_norm"},
    "gemma3": {"fused_attention", "fused_glu", "fused_norm"},
    "mixtral": {"fused_attention", "fused_norm"},
    "gpt2": {"fused_attention"},
    "gpt_neox": {"fused_attention"},
    "bert": {"fused_attention"},
    "t5": {"fused_norm"},
    "torch_pre_norm": set(),
}


def rewritten(model, one_row=False):
    """(replacement, names of the methods that applied) for the whole model."""
    anatomy, replacement, applied = find_sites(model), [], set()
    for site in anatomy.sites:
        nothing = torch.zeros(1, 1, site.d_model, dtype=next(model.parameters()).dtype)
        view = SublayerView(model, anatomy, site, [Call((), {}, nothing, nothing, None)], [])
        for name in NAMES:
            method = methods.get(name)
            if site.kind not in method.kinds or site.locked:
                continue
            reason = method.unsupported_reason(view)
            if reason is None:
                settings = {} if name == "fused_norm" else {"one_row": one_row}
                replacement += view.as_stored(method.build(view, settings))
                applied.add(name)
            else:
                assert reason[0].islower(), "goes on after a colon"
    return replacement, applied


def first(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


@torch.no_grad()
@pytest.mark.parametrize("name", APPLIES)
def test_equal_outputs_where_they_apply_and_refused_elsewhere(name):
    family = BY_NAME[name]
    model, inputs = family.model().requires_grad_(False), family.inputs()
    replacement, applied = rewritten(model)
    assert applied == APPLIES[name]
    before, after = first(model(**inputs)), first(twin(model, replacement)(**inputs))
    if (mask := inputs.get("attention_mask")) is not None:
        before, after = before[mask.bool()], after[mask.bool()]
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


PADDED = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1]])


@torch.no_grad()
@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gpt2"])
def test_generation_with_padding_and_beams(name, one_row):
    model = BY_NAME[name].model().requires_grad_(False)
    fast = twin(model, rewritten(model, one_row)[0])
    tokens = BY_NAME[name].inputs()["input_ids"]
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    for inputs in ({"input_ids": tokens[:1]}, {"input_ids": tokens, "attention_mask": PADDED}):
        for beams in (1, 3):
            expected = model.generate(**inputs, num_beams=beams, **options)
            assert torch.equal(fast.generate(**inputs, num_beams=beams, **options), expected)


@torch.no_grad()
def test_decoding_past_the_room_of_the_cache_and_after_chunks_of_the_prompt(monkeypatch):
    monkeypatch.setattr("layersmith.mixer.shared.key_values.ROOM", 4)
    model = BY_NAME["llama"].model().requires_grad_(False)
    fast = twin(model, rewritten(model)[0])
    tokens = torch.randint(5, 96, (2, 23), generator=torch.Generator().manual_seed(3))
    expected, cache, parts = model(tokens).logits, None, []
    for part in tokens.split([5, 1, 1, 6, 1, 1, 1, 7], dim=1):
        out = fast(part, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_bfloat16_within_its_rounding():
    model = BY_NAME["llama"].model().requires_grad_(False)
    tokens = BY_NAME["llama"].inputs()["input_ids"]
    exact = model(tokens).logits
    model.bfloat16()
    before = model(tokens).logits.float()
    replacement, _ = rewritten(model)
    assert all(p.dtype == torch.bfloat16 for _, part in replacement for p in part.parameters())
    after = twin(model, replacement)(tokens).logits.float()
    assert (after - exact).norm() <= 1.5 * (before - exact).norm()


def test_saved_reloaded_and_trained(tmp_path):
    model = BY_NAME["llama"].model()
    tokens = BY_NAME["llama"].inputs()["input_ids"]
    expected = model(tokens).logits.detach()
    replacement, _ = rewritten(model, one_row=True)
    apply(model, replacement)
    checkpoint.save(model, [edit for edit, _ in replacement], tmp_path / "model")
    again, _ = layersmith.load(str(tmp_path / "model"))
    with torch.inference_mode():  # what is kept from here must not be in the way of training
        torch.testing.assert_close(again(tokens).logits, expected, rtol=1e-5, atol=1e-4)
    again.train()
    loss = again(tokens, labels=tokens).loss
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in again.parameters())


def test_a_norm_that_computes_something_else_is_none_of_ours():
    layer = torch.nn.LayerNorm(8)
    assert as_rms_norm(layer, 8) is None

    class Capped(torch.nn.RMSNorm):
        def forward(self, x):
            return super().forward(x).clamp(-1.5, 1.5)

    assert as_rms_norm(Capped(8, eps=1e-5), 8) is None
    assert as_rms_norm(torch.nn.RMSNorm(8, eps=1e-5), 8) is not None
    assert as_rms_norm(torch.nn.RMSNorm(8, eps=1e-5), 16) is None, "a norm of heads"
