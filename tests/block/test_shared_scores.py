"""Shared scores: written out with one matrix of weights, a group of one, and what is left out of the others."""

import pytest
import torch

from tests.block.small import FFN, NORM, block, tokens

CONFIG = {"n_heads": 2, "ffn": FFN, "norm": NORM}


@pytest.mark.oracle("shared_scores")
@torch.no_grad()
def test_one_matrix_of_weights_serves_all_layers():
    part, x = block("shared_scores", group=3, **CONFIG), tokens()
    attention = part.attention
    h = part.norms[0](x)
    q, k = (linear(h).unflatten(-1, (2, 4)).transpose(1, 2) for linear in (attention.q, attention.k))
    weights = torch.zeros(2, 2, 7, 7, dtype=x.dtype)
    for t in range(7):
        weights[:, :, t, : t + 1] = (q[:, :, t : t + 1] @ k[:, :, : t + 1].mT / 2).softmax(-1)[:, :, 0]
    for layer in range(3):
        values = attention.v if layer == 0 else part.values[layer - 1]
        out = attention.o if layer == 0 else part.outs[layer - 1]
        v = values(part.norms[layer](x)).unflatten(-1, (2, 4)).transpose(1, 2)
        x = x + out((weights @ v).transpose(1, 2).flatten(2))
        x = x + part.ffns[layer](part.ffn_norms[layer](x))
    torch.testing.assert_close(part(tokens())[0], x)


@pytest.mark.oracle("shared_scores")
@torch.no_grad()
def test_a_group_of_one_is_the_plain_layer():
    config = {**CONFIG, "rope_theta": 100.0, "n_kv_heads": 1}
    part, x = block("shared_scores", group=1, **config), tokens()
    mixer = {"name": "softmax_attention", "n_heads": 2, "n_kv_heads": 1, "rope_theta": 100.0}
    plain = block("series", mixer=mixer, ffn=FFN, norm=NORM, ffn_norm=NORM)
    plain.mixer.load_state_dict(part.attention.state_dict())
    for ours, theirs in ((plain.norm, part.norms), (plain.ffn_norm, part.ffn_norms), (plain.ffn, part.ffns)):
        ours.load_state_dict(theirs[0].state_dict())
    torch.testing.assert_close(part(x)[0], plain(x)[0])


def test_others_have_no_queries_and_keys_and_keep_no_keys():
    one, three = (block("shared_scores", group=group, **CONFIG) for group in (1, 3))
    ffn = one.ffns[0].cost().params + 2 * 8  # with both norms
    assert three.cost().params - one.cost().params == 2 * (ffn + 2 * 64)
    assert three.state_bytes(5) == 2 * one.state_bytes(5)
