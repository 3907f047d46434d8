"""Feedback: the recurrence written out, its limit a plain stack, and decoding."""

import pytest
import torch

from layersmith import catalogue
from tests.block.small import LAYER, OTHER, block, stacked, tokens


@pytest.mark.oracle("feedback")
@torch.no_grad()
@pytest.mark.parametrize("off", [{}, {"lateral": False}, {"top_down": False}], ids=str)
def test_the_recurrence_written_out(off):
    part, x = block("feedback", layers=[LAYER, OTHER, LAYER], times=3, **off), tokens()
    last = [torch.zeros_like(x)] * 4  # the layer above the last writes nothing
    for _ in range(3):
        h, now = x, []
        for index in range(3):
            beside = torch.einsum("de,bte->btd", part.lateral[index], last[index]) if part.lateral is not None else 0
            above = 0
            if part.top_down is not None and index < 2:
                above = torch.einsum("de,bte->btd", part.top_down[index], last[index + 1])
            h = part.layers[index](h + beside + above)[0]
            now.append(h)
        last = [*now, torch.zeros_like(x)]
    torch.testing.assert_close(part(x)[0], last[2], atol=1e-12, rtol=0)


@pytest.mark.oracle("feedback")
@torch.no_grad()
@pytest.mark.parametrize("times", [1, 4])
def test_without_feedback_it_is_the_stack_of_layers(times):
    torch.manual_seed(0)
    fresh = catalogue.build({"name": "feedback", "d_model": 8, "layers": [LAYER, OTHER], "times": times}).double()
    torch.testing.assert_close(fresh(tokens())[0], stacked(fresh.layers, tokens()), atol=0, rtol=0)


@torch.no_grad()
def test_later_times_change_the_answer_and_tokens_can_be_fed_one_by_one():
    part, x = block("feedback", layers=[LAYER, OTHER], times=3), tokens()
    once = stacked(part.layers, x)
    assert (part(x)[0] - once).abs().max() > 1e-3
    state, parts = None, []
    for token in x.split(1, dim=1):
        y, state = part(token, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), part(x)[0], atol=1e-10, rtol=0)


def test_time_adds_work_and_state_and_no_parameters():
    two, four = (block("feedback", layers=[LAYER, OTHER], times=times).cost(1, 6) for times in (2, 4))
    assert two.params == four.params
    assert four.state_bytes == 2 * two.state_bytes
    assert four.flops - 2 * two.flops == 2 * 6 * 3 * 8 * 8
