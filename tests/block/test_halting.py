"""Halting: the stick written out token by token, its limits, and tokens that stop early."""

import pytest
import torch

from layersmith.contract import aux_losses
from layersmith.errors import UserError
from tests.block.small import LAYER, OTHER, block, stacked, tokens

TURNS = 4


def halting(**config):
    return block("halting", layers=[LAYER, OTHER], times=TURNS, **config)


def with_halt(part, value):
    """The block, its halting network replaced by a constant."""
    part.halt.forward = lambda h: torch.full_like(h[..., :1], value)
    return part


def chances(part, x):
    """Shares of every token that stop at each turn, the last rest included: (turns, B, T); and the outputs."""
    s = h = stacked(part.layers, x)
    shares, rest, past = [], torch.ones(x.shape[:2], dtype=x.dtype), torch.zeros_like(x)
    for _ in range(TURNS - 1):
        stop = torch.sigmoid(part.halt(h))[..., 0]
        shares.append(rest * stop)
        past = past + shares[-1][..., None] * h
        rest = rest * (1 - stop)
        h = stacked(part.layers, s)
        s = past + rest[..., None] * h
    return torch.stack([*shares, rest]), s


@pytest.mark.oracle("halting")
@torch.no_grad()
def test_outputs_are_means_over_turns():
    part, x = halting(threshold=1.0), tokens()
    shares, want = chances(part, x)
    torch.testing.assert_close(shares.sum(0), torch.ones(2, 7, dtype=x.dtype))
    assert shares.min() > 0.02
    assert shares.std() > 0.01
    torch.testing.assert_close(part(x)[0], want)


@pytest.mark.oracle("halting")
@torch.no_grad()
def test_tokens_that_never_stop_are_looped_and_those_that_stop_at_once_run_once():
    x = tokens()
    never = with_halt(halting(), -50.0)
    looped = block("looped", layers=[LAYER, OTHER], times=TURNS)
    looped.load_state_dict({k: v for k, v in never.state_dict().items() if k.startswith("layers.")})
    torch.testing.assert_close(never(x)[0], looped(x)[0])
    at_once = with_halt(halting(), 50.0)
    torch.testing.assert_close(at_once(x)[0], stacked(at_once.layers, x))


@torch.no_grad()
def test_a_lower_threshold_halts_more_tokens_and_a_threshold_of_one_none():
    x = tokens(20)
    soft = halting(threshold=1.0)(x)[0]
    moved = [((halting(threshold=t)(x)[0] - soft).abs().amax(-1) > 1e-9).double().mean() for t in (0.999, 0.8, 0.3)]
    assert moved[0] == 0  # no token has stopped by more than 1 - 2^-4 or so
    assert moved[1] < moved[2]
    assert moved[2] > 0.9
    trained = halting(threshold=0.3).train()
    torch.testing.assert_close(trained(x)[0], soft)  # thresholds act in evaluation


@torch.no_grad()
def test_the_loss_is_the_mean_number_of_turns_of_real_tokens():
    part, x = halting(penalty=0.5).train(), tokens()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, :3] = False
    part(x, None, mask)
    loss = aux_losses(part)["ponder"]
    alone = [chances(part, row)[0] for row in (x[:1, 3:], x[1:])]
    turns = torch.arange(1, TURNS + 1, dtype=x.dtype)[:, None, None]
    want = torch.cat([(turns * shares).sum(0).flatten() for shares in alone]).mean()
    torch.testing.assert_close(loss, 0.5 * want)


@pytest.mark.parametrize("change", [{"threshold": 0.0}, {"threshold": 1.5}, {"penalty": -1.0}], ids=str)
def test_settings_without_meaning_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        halting(**change)
