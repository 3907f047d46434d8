"""Bottleneck: written out, and a square one that is the stack."""

import pytest
import torch

from tests.block.small import LAYER, OTHER, block, stacked, tokens


@pytest.mark.oracle("bottleneck")
@torch.no_grad()
@pytest.mark.parametrize("residual", [True, False])
def test_layers_run_between_two_maps(residual):
    part, x = block("bottleneck", d_inner=4, layers=[LAYER, OTHER], residual=residual), tokens()
    assert part.layers[0].mixer.q.in_features == 4
    inner = torch.einsum("btd,ed->bte", x, part.down.weight)
    want = torch.einsum("bte,de->btd", stacked(part.layers, inner), part.up.weight)
    torch.testing.assert_close(part(x)[0], x + want if residual else want)


@pytest.mark.oracle("bottleneck")
@torch.no_grad()
def test_identities_of_full_width_leave_the_stack():
    part, x = block("bottleneck", d_inner=8, layers=[LAYER, OTHER], residual=False), tokens()
    for linear in (part.down, part.up):
        linear.weight.copy_(torch.eye(8))
    torch.testing.assert_close(part(x)[0], stacked(part.layers, x))


def test_parameters_and_work_of_the_maps_are_counted():
    inner = block("looped", layers=[LAYER], times=1)
    part = block("bottleneck", d_inner=8, layers=[LAYER])
    assert part.cost().params == inner.cost().params + 2 * 64
    assert part.cost(1, 5).flops == inner.cost(1, 5).flops + 2 * 5 * 2 * 64
