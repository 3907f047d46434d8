"""Activator: written out token by token, and no token reads another."""

import math

import pytest
import torch

from tests.block.small import FFN, NORM, block, tokens


@pytest.mark.oracle("activator")
@torch.no_grad()
def test_the_unit_written_out():
    part, x = block("activator", d_hidden=5, ffn=FFN, norm=NORM), tokens(3)

    def unit(token):
        h = token / (token.square().mean() + part.norm.eps).sqrt() * part.norm.weight
        gate, up = part.gate.weight @ h + part.gate.bias, part.up.weight @ h + part.up.bias
        gate = torch.tensor([g * 0.5 * (1 + math.erf(g / math.sqrt(2))) for g in gate.tolist()], dtype=h.dtype)
        normed = []
        for values, norm in ((gate, part.gate_norm), (up, part.up_norm)):
            centred = values - values.mean()
            normed.append(centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias)
        h = token + part.down.weight @ (normed[0] * normed[1]) + part.down.bias
        return h + part.ffn(part.ffn_norm(h))

    torch.testing.assert_close(part(x)[0], torch.stack([torch.stack([unit(t) for t in row]) for row in x]))


@pytest.mark.oracle("activator")
@torch.no_grad()
def test_tokens_are_alone():
    part, x = block("activator", d_hidden=5, ffn=FFN, norm=NORM), tokens()
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    torch.testing.assert_close(part(x[:, order])[0], part(x)[0][:, order])
    torch.testing.assert_close(part(x[:, 2:3])[0], part(x)[0][:, 2:3])
