"""Exits: off they change nothing, always taken they truncate; who leaves does so alike with and without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layersmith.errors import UserError
from layersmith.model import TransformerConfig, TransformerLM

NORM = {"name": "rms_norm"}
LAYER = {
    "norm": NORM,
    "mixer": {"name": "softmax_attention", "n_heads": 2, "rope_theta": 100.0},
    "ffn_norm": NORM,
    "ffn": {"name": "glu", "d_hidden": 24},
}


def model(**settings: Any) -> TransformerLM:
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=13, d_model=16, layers=4 * [LAYER], final_norm=NORM, **settings)
    lm = TransformerLM(config).double().eval()
    torch.nn.init.normal_(lm.embed_tokens.weight, std=0.3)  # answers of every sureness
    return lm


#: What a good part of the tokens, and not all, are at the exits of these models.
SURE = 0.3
IDS = torch.randint(1, 13, (4, 20), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_a_threshold_of_one_is_the_whole_model() -> None:
    with_exits = model(exits=[1, 3])
    plain = model()
    plain.load_state_dict(with_exits.state_dict(), strict=False)
    assert torch.equal(with_exits(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    assert (with_exits.depths(IDS) == 4).all()


@torch.no_grad()
def test_leaving_at_once_is_the_truncated_model() -> None:
    lm = model(exits=[2, 3], exit_threshold=0.0)
    x = lm.embed_tokens(IDS)
    for layer in lm.layers[:2]:
        x, _ = layer(x)
    torch.testing.assert_close(lm(input_ids=IDS).logits, lm.lm_head(lm.exits.norms[0](x)))
    assert (lm.depths(IDS) == 2).all()


@torch.no_grad()
def test_who_leaves_written_out() -> None:
    """Token by token: sure ones answer at once, and are read above as they were."""
    lm = model(exits=[1, 3])
    x = lm.embed_tokens(IDS)
    first = lm.lm_head(lm.exits.norms[0](lm.layers[0](x)[0])).softmax(-1).amax(-1)
    lm.exits.threshold = sure = first.quantile(0.6).item()
    left, want, depth = torch.zeros_like(IDS, dtype=torch.bool), None, torch.full_like(IDS, 4)
    for index, layer in enumerate(lm.layers):
        y, _ = layer(x)
        y[left] = x[left]
        x = y
        if index + 1 in (1, 3):
            said = lm.lm_head(lm.exits.norms[index // 2](x))
            want = torch.zeros_like(said) if want is None else want
            new = (said.softmax(-1).amax(-1) > sure) & ~left
            want[new], depth[new] = said[new], index + 1
            left |= new
    want[~left] = lm.lm_head(lm.final_norm(x))[~left]
    assert {1, 3, 4} <= set(depth.flatten().tolist())
    torch.testing.assert_close(lm(input_ids=IDS).logits, want)
    torch.testing.assert_close(lm(input_ids=IDS, logits_to_keep=2).logits, want[:, -2:])
    assert torch.equal(lm.depths(IDS), depth)


@torch.no_grad()
@pytest.mark.parametrize("loops", [1, 2])
def test_generation_with_a_cache_is_that_without(loops: int) -> None:
    lm = model(exits=[1, 3], exit_threshold=SURE, loops=loops)
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(lm.generate(IDS, **settings), lm.generate(IDS, **settings, use_cache=False))


def test_depth_falls_with_the_threshold() -> None:
    lm = model(exits=[1, 2, 3])
    depths = []
    for threshold in (1.0, 0.7, 0.4, 0.2):
        lm.exits.threshold = threshold
        depths.append(lm.depths(IDS).double().mean().item())
    assert depths == sorted(depths, reverse=True)
    assert depths[0] == 4
    assert depths[-1] < 2.5


def test_every_exit_is_trained() -> None:
    lm = model(exits=[1, 3], exit_threshold=0.2).train()
    loss = lm(input_ids=IDS, labels=IDS).loss
    x, losses = lm.embed_tokens(IDS), []
    for index, layer in enumerate(lm.layers):
        x, _ = layer(x)
        norm = {1: lm.exits.norms[0], 3: lm.exits.norms[1], 4: lm.final_norm}.get(index + 1)
        if norm is not None:
            logits = lm.lm_head(norm(x))[:, :-1].flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(logits, IDS[:, 1:].flatten()).float())
    torch.testing.assert_close(loss, sum(losses) / 3)
    loss.backward()
    assert all(norm.weight.grad.abs().sum() > 0 for norm in lm.exits.norms)


@pytest.mark.parametrize("exits", [[0], [4], [3, 1], [2, 2]], ids=str)
def test_exits_that_are_no_places_are_refused(exits: list[int]) -> None:
    with pytest.raises(UserError, match="from 1 to 3, in order"):
        model(exits=exits)
