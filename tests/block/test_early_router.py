"""Early router: written out token by token, chosen before the mixer has spoken; equal experts are one feed-forward."""

import pytest
import torch

from layersmith.contract import aux_losses
from layersmith.errors import UserError
from tests.block.small import NORM, SOFTMAX, block, tokens


def routed(k=2, **config):
    return block("early_router", mixer=SOFTMAX, norm=NORM, d_expert=5, n_experts=4, k=k, **config)


@pytest.mark.oracle("early_router")
@torch.no_grad()
def test_experts_written_out():
    part, x = routed(), tokens()
    h = x + part.mixer(part.norm(x))[0]
    experts = part.experts
    for b in range(2):
        for t in range(7):
            logits = part.router.weight @ part.norm(x[b, t])
            best = sorted(range(4), key=lambda e: -logits[e])[:2]
            p = torch.softmax(logits[best], 0)
            read, y = part.ffn_norm(h[b, t]), h[b, t].clone()
            for share, e in zip(p, best, strict=True):
                y += share * (experts.down[e] @ ((experts.gate[e] @ read).clamp_min(0) * (experts.up[e] @ read)))
            torch.testing.assert_close(part(x)[0][b, t], y, atol=1e-6, rtol=1e-6)  # the router is float32


@pytest.mark.oracle("early_router")
@torch.no_grad()
def test_equal_experts_are_one_gated_feed_forward_whatever_is_chosen():
    part, x = routed(k=3), tokens()
    for weight in part.experts.parameters():
        weight.copy_(weight[:1].expand_as(weight))
    h = x + part.mixer(part.norm(x))[0]
    read = part.ffn_norm(h)
    up, gate, down = (getattr(part.experts, name)[0] for name in ("up", "gate", "down"))
    torch.testing.assert_close(part(x)[0], h + ((read @ gate.T).relu() * (read @ up.T)) @ down.T, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_choice_does_not_wait_for_the_mixer():
    """Other mixer weights, other outputs, the same choice."""
    part, x, chosen = routed().train(), tokens(), []
    for _ in range(2):
        part(x)
        chosen.append(aux_losses(part)["balance"].item())
        part.mixer.o.weight.mul_(-3)
    assert chosen[0] == chosen[1] > 0
    with pytest.raises(UserError, match="k=5"):
        routed(k=5)
