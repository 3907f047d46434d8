"""Rules that train under masks: against the same steps written again, and what masks do over a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from layersmith.errors import UserError
from layersmith.linear.shared.masks import transposable
from layersmith.racing.optimizer import set_rate
from layersmith.racing.optimizers import build_rule
from layersmith.racing.optimizers.lottery_ticket import without_smallest

from .test_optimizer_steps import adam, by_hand, plain, same
from .toy import DECAY, LR, Toy, gradient_at, stepped

HIDDEN = ["layers.0.mixer.q.weight", "layers.0.mixer.v.weight", "layers.0.ffn.up.weight"]


def ticket(**settings: Any) -> Any:
    return build_rule({"name": "lottery_ticket", **settings})


def test_before_a_round_ends_a_ticket_is_adamw() -> None:
    same(stepped(ticket(every=50)), by_hand(adam))


def test_without_smallest_takes_a_share_of_what_is_left() -> None:
    p = torch.tensor([[0.1, -5.0, 0.3], [4.0, 0.2, -3.0]])
    first = without_smallest(p, torch.ones(2, 3), 1 / 3)
    assert first.tolist() == [[0, 1, 1], [1, 0, 1]]
    assert without_smallest(p, first, 0.5).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert int(without_smallest(p, first, 0.99).sum()) == 1


@pytest.mark.parametrize("rewind", [0, 2])
def test_a_round_prunes_what_became_small_and_puts_the_rest_back(rewind: int) -> None:
    every, model = 4, Toy().train()
    rule = ticket(every=every, rewind=rewind, share=0.25, rounds=1)
    optimizers = rule.optimizers(model, LR, DECAY)
    start = {name: p.detach().clone() for name, p in Toy().named_parameters()}
    if rewind:
        start = {name: torch.tensor(value) for name, value in stepped(build_rule("adamw"), rewind).items()}
    ended = {name: torch.tensor(value) for name, value in stepped(build_rule("adamw"), every).items()}
    masks = {}
    for _ in range(every):
        set_rate(optimizers, LR)
        rule.step(optimizers, gradient_at(model))
    for name, p in model.named_parameters():
        mask = torch.ones_like(p)
        if name in HIDDEN:
            flat = ended[name].abs().flatten()
            for index in flat.argsort()[: round(0.25 * flat.numel())].tolist():
                mask.view(-1)[index] = 0.0
            masks[name] = mask
        torch.testing.assert_close(p.detach(), start[name] * mask, rtol=0, atol=1e-12)
    again = Toy().train()
    again.load_state_dict({name: start[name] * masks.get(name, 1.0) for name in start})
    fresh = build_rule("adamw").optimizers(again, LR, DECAY)
    for optimizers_, toy in ((optimizers, model), (fresh, again)):
        set_rate(optimizers_, LR)
        gradient_at(toy)()
        for optimizer in optimizers_:
            optimizer.step()
    for (name, p), (_, expected) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        mask = masks.get(name, torch.ones_like(p))
        torch.testing.assert_close(p.detach(), expected.detach() * mask, msg=f"{name}: moments begin anew")


def test_weights_fall_by_a_share_in_every_round_and_stay_zero() -> None:
    model, rule = Toy().train(), ticket(every=5, share=0.2, rounds=3)
    optimizers = rule.optimizers(model, LR, 0.0)
    named = dict(model.named_parameters())
    left, zero = [], {name: torch.zeros_like(named[name], dtype=torch.bool) for name in HIDDEN}
    for _ in range(30):
        rule.step(optimizers, gradient_at(model))
        for name in HIDDEN:
            assert (named[name][zero[name]] == 0).all()
            zero[name] = named[name] == 0
        left.append(int((named[HIDDEN[0]] != 0).sum()))
    assert [left[3], left[4], left[9], left[14], left[29]] == [16, 13, 10, 8, 8]
    assert (named["embed.weight"] != 0).all()


def test_the_random_control_has_the_mask_and_other_weights() -> None:
    found = {start: stepped(ticket(every=3, share=0.25, rounds=1, start=start), 3) for start in ("rewound", "random")}
    for name in HIDDEN:
        rewound, drawn = (found[start][name] for start in ("rewound", "random"))
        np.testing.assert_array_equal(rewound == 0, drawn == 0)
        kept = rewound != 0
        assert (rewound[kept] != drawn[kept]).all()
    np.testing.assert_array_equal(found["rewound"]["embed.weight"], found["random"]["embed.weight"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 1.0}, "share must lie"),
        ({"rounds": 0}, "rounds must be"),
        ({"every": 10, "rewind": 10}, "rewind must be 0 or more and below"),
        ({"start": "new"}, "start must be one of"),
    ],
    ids=str,
)
def test_settings_that_make_no_ticket(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ticket(**settings)


def masked(**settings: Any) -> Any:
    return build_rule({"name": "two_four", **settings})


def test_two_four_moves_dense_weights_by_gradients_at_masked_ones() -> None:
    decay, steps = 0.5, 5
    dense: dict[str, np.ndarray] = {}
    kept: dict[str, dict[str, Any]] = {name: {} for name, _ in Toy().named_parameters()}
    masks: dict[str, np.ndarray] = {}
    model = Toy().train()
    for t in range(1, steps + 1):
        found = plain(model)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name not in HIDDEN[:2]:  # 6 x 4 does not divide into 4 x 4 blocks
                    p.mul_(1 - LR * (DECAY if p.ndim > 1 else 0.0))
                    p.sub_(LR * torch.tensor(adam(name, found[name], kept[name], t)))
                    continue
                w = dense.get(name, p.detach().numpy().copy())
                mask = masks.get(name, np.ones_like(w))
                g = found[name] + decay * (1 - mask) * w
                dense[name] = (1 - LR * DECAY) * w - LR * adam(name, g, kept[name], t)
                if (t - 1) % 2 == 0:
                    masks[name] = transposable(torch.tensor(abs(dense[name]))).double().numpy()
                p.copy_(torch.tensor(dense[name] * masks[name]))
    expected = {name: p.detach().numpy() for name, p in model.named_parameters()}
    same(stepped(masked(decay=decay, every=2), steps), expected)


def test_the_model_sees_two_of_four_in_both_directions_until_it_is_dense_again() -> None:
    model, rule = Toy().train(), masked(every=3, dense_from=8)
    optimizers = rule.optimizers(model, LR, 0.0)
    q = dict(model.named_parameters())[HIDDEN[0]]
    for step in range(10):
        rule.step(optimizers, gradient_at(model))
        zeros = (q == 0).sum(0).tolist(), (q == 0).sum(1).tolist()
        assert zeros == (([2] * 4, [2] * 4) if step < 8 else ([0] * 4, [0] * 4))


class Noisy(nn.Module):
    """A hidden matrix whose gradients are noise: weights wander, and masks with them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(32, 32, bias=False)
        self.head = nn.Linear(32, 1, bias=False)


def test_masked_decay_settles_the_mask() -> None:
    flips = {}
    for decay in (0.0, 30.0):
        model, seen = Noisy(), []
        optimizers = masked(decay=decay, every=1).optimizers(model, 0.01, 0.0)
        draw = torch.Generator().manual_seed(1)
        for _ in range(60):
            model.hidden.weight.grad = torch.randn(32, 32, generator=draw)
            optimizers[0].step()
            seen.append(float(optimizers[0].state[model.hidden.weight]["flips"]))
        flips[decay] = sum(seen[30:]) / 30
    assert flips[0.0] > 0.01
    assert flips[30.0] < 0.5 * flips[0.0]


def test_a_model_that_the_pattern_does_not_fit_is_refused_in_one_paragraph() -> None:
    model = nn.ModuleDict({"layers": nn.Linear(6, 10), "head": nn.Linear(8, 8)})
    with pytest.raises(UserError, match="no hidden matrix of this model") as refused:
        masked().optimizers(model, LR, DECAY)
    assert "\n" not in str(refused.value)
