"""Branches: the sum written out, one branch that is the stack, and branches left out."""

import pytest
import torch

from layersmith.errors import UserError
from tests.block.small import LAYER, OTHER, block, stacked, tokens


@pytest.mark.oracle("branches")
@torch.no_grad()
@pytest.mark.parametrize("keep", [None, [0, 2], [1]])
def test_the_sum_written_out(keep):
    part, x = block("branches", layers=[LAYER, OTHER], branches=3, keep=keep), tokens()
    want = 0
    for b in range(3) if keep is None else keep:
        read = torch.einsum("btd,ed->bte", x, part.maps[b].weight)
        want = want + part.weights[b] * stacked(part.stacks[b].layers, read)
    torch.testing.assert_close(part(x)[0], want)


@pytest.mark.oracle("branches")
@torch.no_grad()
def test_one_fresh_branch_is_the_stack():
    from layersmith import catalogue

    part = catalogue.build({"name": "branches", "d_model": 8, "layers": [LAYER, OTHER], "branches": 1}).double()
    torch.testing.assert_close(part(tokens())[0], stacked(part.stacks[0].layers, tokens()))


def test_branches_that_are_left_out_cost_no_work():
    whole, half = (block("branches", layers=[LAYER], branches=2, keep=keep).cost(1, 6) for keep in (None, [1]))
    assert half.params == whole.params
    assert (2 * half.flops, 2 * half.state_bytes) == (whole.flops, whole.state_bytes)
    for keep in ([], [2]):
        with pytest.raises(UserError, match="keep"):
            block("branches", layers=[LAYER], branches=2, keep=keep)
