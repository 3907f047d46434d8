"""Looped: the recursion written out, one turn is the plain stack, and what turns cost."""

import pytest
import torch

from layersmith.errors import UserError
from tests.block.small import LAYER, OTHER, block, stacked, tokens


@pytest.mark.oracle("looped")
@torch.no_grad()
@pytest.mark.parametrize("inject", [False, True])
def test_turns_written_out(inject):
    looped, x = block("looped", layers=[LAYER, OTHER], times=3, inject=inject), tokens()
    h = torch.zeros_like(x) if inject else x
    for _ in range(3):
        h = stacked(looped.layers, h + x if inject else h)
    torch.testing.assert_close(looped(x)[0], h)


@pytest.mark.oracle("looped")
@torch.no_grad()
@pytest.mark.parametrize("inject", [False, True])
def test_one_turn_is_the_stack(inject):
    looped, x = block("looped", layers=[LAYER, OTHER], times=1, inject=inject), tokens()
    assert torch.equal(looped(x)[0], stacked(looped.layers, x))


@torch.no_grad()
def test_unshared_layers_with_equal_weights_are_the_loop():
    looped, x = block("looped", layers=[LAYER], times=3), tokens()
    unshared = block("looped", layers=3 * [LAYER], times=1)
    for layer in unshared.layers:
        layer.load_state_dict(looped.layers[0].state_dict())
    torch.testing.assert_close(looped(x)[0], unshared(x)[0])


def test_work_and_state_grow_with_turns_and_parameters_do_not():
    once, thrice = (block("looped", layers=[LAYER], times=times).cost(1, 8) for times in (1, 3))
    assert (thrice.params, thrice.weight_bytes) == (once.params, once.weight_bytes)
    assert (thrice.flops, thrice.state_bytes) == (3 * once.flops, 3 * once.state_bytes)


def test_layers_are_a_list_of_specs():
    for layers in ([], LAYER, ["series"]):
        with pytest.raises(UserError, match="layers must be a list"):
            block("looped", layers=layers)
    with pytest.raises(UserError, match="times must be a positive integer"):
        block("looped", layers=[LAYER], times=0)
    assert not block("looped", layers=[{**LAYER, "mixer": {**LAYER["mixer"], "causal": False}}]).causal
