"""Skip middle: gates that are open leave the stack, shut ones take its middle out, and skipping tokens are not read."""

import pytest
import torch

from layersmith.contract import aux_losses
from layersmith.errors import UserError
from tests.block.small import LAYER, OTHER, block, stacked, tokens

LAYERS = [LAYER, OTHER, LAYER, OTHER]


def gated(biases, **config):
    """The block with routers of these biases and no weights."""
    part = block("skip_middle", layers=LAYERS, **config)
    with torch.no_grad():
        for router, bias in zip(part.routers, biases, strict=True):
            router.weight.zero_()
            router.bias.fill_(bias)
    return part


@pytest.mark.oracle("skip_middle")
@torch.no_grad()
def test_open_gates_leave_the_stack():
    part, x = gated([0.0, -1.0]), tokens()
    torch.testing.assert_close(part(x)[0], stacked(part.layers, x))


@pytest.mark.oracle("skip_middle")
@torch.no_grad()
def test_shut_gates_take_the_middle_out():
    x = tokens()
    inner = gated([0.0, 2.0])
    torch.testing.assert_close(inner(x)[0], stacked([inner.layers[0], inner.layers[3]], x))
    whole = gated([2.0, 0.0])  # a gate that is shut stays shut on the way in
    torch.testing.assert_close(whole(x)[0], x)


@pytest.mark.oracle("skip_middle")
@torch.no_grad()
def test_gates_written_out():
    """Running sums, mirrored, multiply what layers add."""
    part, x = block("skip_middle", layers=LAYERS), tokens()
    for router in part.routers:
        router.weight.mul_(2)
    h, total, gates, seen = x, 0, {}, []
    for index in range(4):
        if index < 2:
            total = total + part.routers[index](h).clamp_min(0)
            gates[index] = gates[3 - index] = 1 - total.clamp(0, 1)
        gate, rows = gates[index], []
        for b in range(2):  # a sequence of those that take part, by itself
            takes = gate[b, :, 0] > 0
            out = h[b].clone()
            y = part.layers[index](h[b : b + 1, takes])[0][0]
            out[takes] = h[b, takes] + gate[b, takes] * (y - h[b, takes])
            rows.append(out)
        h = torch.stack(rows)
        seen.append(gate)
    assert torch.cat(seen).unique().numel() > 4  # soft gates, not open and shut ones alone
    torch.testing.assert_close(part(x)[0], h)


@torch.no_grad()
def test_nobody_reads_a_token_that_skips():
    part, x = gated([0.0, 0.0]), tokens()
    part.routers[1].weight.copy_(torch.randn(1, 8, dtype=x.dtype))
    part.routers[1].bias.zero_()
    h = part.layers[0](x)[0]
    skips = (part.routers[1](h) >= 1)[..., 0]
    assert skips.any()
    assert not skips.all()
    middle, seen = part.layers[1], []
    middle.register_forward_pre_hook(lambda _module, args: seen.append(args[2]))
    part(x)
    assert torch.equal(seen[0], ~skips)


def test_the_loss_is_the_mean_gate_and_pulls_gates_shut():
    part = gated([0.25, 0.25], penalty=0.5).train()
    part(tokens())
    loss = aux_losses(part)["open"]
    assert loss.item() == pytest.approx(0.5 * (0.75 + 0.5) / 2)
    loss.backward()
    assert part.routers[0].bias.grad < 0
    with pytest.raises(UserError, match="two or more"):
        block("skip_middle", layers=[LAYER])
