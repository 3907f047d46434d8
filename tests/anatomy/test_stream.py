"""How sublayers read the residual stream and write to it: the norms around each, and that all of it adds up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers as tf

from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.replay import Captured
from layersmith.anatomy.stream import NoSum, steps_in, steps_of
from tests.anatomy.families import _DECODER, BY_NAME

#: Of attention and feed-forward: names of the norms in front, behind and on the sum, and how many wrote before.
STEPS = {
    "llama": (("attn_norm", None, None, 0), ("ffn_norm", None, None, 1)),
    "gemma3": (("attn_norm", "attn_post_norm", None, 0), ("ffn_norm", "ffn_post_norm", None, 1)),
    "bert": ((None, None, "attn_norm", 0), (None, None, "ffn_norm", 1)),
    "gpt_neox": (("attn_norm", None, None, 0), ("ffn_norm", None, None, 0)),
}


def granite() -> tf.GraniteForCausalLM:
    """Its sublayers' outputs are scaled by a number that no module holds."""
    torch.manual_seed(0)
    return tf.GraniteForCausalLM(tf.GraniteConfig(**_DECODER, residual_multiplier=0.22)).eval()


@pytest.mark.parametrize("name", STEPS)
def test_the_norms_around_each_sublayer(name: str) -> None:
    family = BY_NAME[name]
    model = family.model()
    with torch.no_grad():
        for gain in (p for p in model.parameters() if p.dim() == 1):
            gain += 0.1 * torch.randn_like(gain)  # norms that start alike could not be told apart
    anatomy = find_sites(model)
    path_of = {site.name: site.modules[0] for site in anatomy}
    for layer, steps in enumerate(steps_of(Replay(model, anatomy), anatomy, family.inputs())):
        assert [step.site.role for step in steps] == ["attn", "ffn"]
        for step, (*norms, sees) in zip(steps, STEPS[name], strict=True):
            paths = [None if norm is None else path_of[f"layers.{layer}.{norm}"] for norm in norms]
            assert [step.norm, step.post, step.closing] == paths
            assert step.sees == sees


def captured(model: torch.nn.Module, ids: torch.Tensor) -> tuple:
    """The anatomy, the first block and the calls in it."""
    anatomy = find_sites(model)
    replay, block = Replay(model, anatomy), anatomy.site("layers.0")
    paths = {path for site in (block, *anatomy.in_block(block.name)) for path in site.modules}
    with torch.no_grad():
        entering = replay.block_inputs({"input_ids": ids})
        return anatomy, block, replay.capture(0, entering[0], {"input_ids": ids}, sorted(paths))[1]


def test_what_is_read_and_added_is_what_the_formula_has_there() -> None:
    anatomy, block, calls = captured(BY_NAME["gemma3"].model(), torch.arange(6, 18).view(2, 6))
    attention, feed_forward = steps_in(anatomy, block, calls)
    (whole,) = calls[block.modules[0]]
    torch.testing.assert_close(attention.read(calls), whole.input, rtol=0, atol=0)
    torch.testing.assert_close(feed_forward.read(calls), whole.input + attention.added(calls))
    torch.testing.assert_close(whole.hidden, feed_forward.read(calls) + feed_forward.added(calls))


def test_a_scale_that_is_no_module_is_no_sum() -> None:
    with pytest.raises(NoSum, match=r"sublayers of layers\.0 write does not add up"):
        steps_in(*captured(granite(), torch.arange(6, 18).view(2, 6)))


def test_a_block_that_runs_several_times_is_no_sum() -> None:
    family = BY_NAME["albert"]
    model = family.model()
    anatomy = find_sites(model)
    paths = [path for site in anatomy for path in site.modules]
    calls = Replay(model, anatomy).calls_of(family.inputs(), paths)
    with pytest.raises(NoSum, match=r"layers\.0 or a sublayer in it does not run exactly once"):
        steps_in(anatomy, anatomy.site("layers.0"), calls)


def test_a_token_of_enormous_norm_hides_no_other() -> None:
    model, ids = BY_NAME["llama"].model(), torch.arange(6, 18).view(2, 6)
    with torch.no_grad():
        model.model.embed_tokens.weight[6] *= 1e6
    anatomy, block, calls = captured(model, ids)
    assert len(steps_in(anatomy, block, calls)) == 2
    (whole,) = calls[block.modules[0]]
    wrong = whole.hidden.clone()
    wrong[1] *= 1.01
    assert float((wrong - whole.hidden).norm() / whole.hidden.norm()) < 1e-6
    with pytest.raises(NoSum):
        steps_in(anatomy, block, {**calls, block.modules[0]: [replace(whole, output=wrong)]})


def test_in_half_precision_it_adds_up_to_rounding() -> None:
    model = BY_NAME["gemma3"].model().bfloat16()
    anatomy, block, calls = captured(model, torch.arange(6, 18).view(2, 6))
    steps = steps_in(anatomy, block, calls)
    assert [(step.norm is not None, step.post is not None, step.sees) for step in steps] == [
        (True, True, 0),
        (True, True, 1),
    ]
    (whole,) = calls[block.modules[0]]
    off = Captured(whole.args, whole.kwargs, whole.hidden * 1.02)
    with pytest.raises(NoSum):
        steps_in(anatomy, block, {**calls, block.modules[0]: [off]})
