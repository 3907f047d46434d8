"""Layers side by side: the sum written out, one alone, and layers left out."""

import pytest
import torch

from layersmith.errors import UserError
from tests.block.small import LAYER, OTHER, block, tokens

DEEP = {"name": "looped", "times": 1, "layers": [OTHER, LAYER]}


@pytest.mark.oracle("side_by_side")
@torch.no_grad()
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("keep", [None, [2, 0]])
def test_the_sum_written_out(keep, mean):
    part, x = block("side_by_side", layers=[LAYER, OTHER, DEEP], keep=keep, mean=mean), tokens()
    chosen = [0, 1, 2] if keep is None else keep
    want = sum(part.layers[m](x)[0] for m in chosen) / (len(chosen) if mean else 1)
    torch.testing.assert_close(part(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("side_by_side")
@torch.no_grad()
@pytest.mark.parametrize("only", [0, 1])
def test_one_alone_is_that_layer(only):
    part, x = block("side_by_side", layers=[LAYER, OTHER], keep=[only]), tokens()
    torch.testing.assert_close(part(x)[0], part.layers[only](x)[0], atol=0, rtol=0)


def test_layers_that_are_left_out_cost_no_work():
    whole, half = (block("side_by_side", layers=[LAYER, LAYER], keep=keep).cost(1, 6) for keep in (None, [1]))
    assert half.params == whole.params
    assert (2 * half.flops, 2 * half.state_bytes) == (whole.flops, whole.state_bytes)
    for keep in ([], [2], [0, 0]):
        with pytest.raises(UserError, match="keep"):
            block("side_by_side", layers=[LAYER, LAYER], keep=keep)
