"""The contract's base classes: recorded configs, costs of a user's own part, states, auxiliary losses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.contract import Cost, FeedForward, Mixer, State, aux_losses, report_aux, require_positive, stored_bytes


class Own(FeedForward):
    """What a user writes: a constructor and forward."""

    def __init__(self, d_model: int, d_hidden: int = 6):
        super().__init__()
        require_positive(Own, d_model=d_model, d_hidden=d_hidden)
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)

    def forward(self, x: Tensor) -> Tensor:
        report_aux(self, "size", x.square().mean())
        return self.down(torch.relu(self.up(x)))


class OwnMixer(Mixer):
    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        return x, {"last": x[:, -1], "seen": torch.zeros(x.shape[0], 3, dtype=torch.int64, device=x.device)}


def test_config_records_defaults_and_positional_arguments() -> None:
    assert Own(4).spec() == {"name": f"{__name__}:Own", "d_model": 4, "d_hidden": 6}
    assert Own(4, d_hidden=2).spec()["d_hidden"] == 2


def test_spec_of_a_users_part_builds_only_when_trusted() -> None:
    spec = Own(4).spec()
    assert catalogue.build(spec, trust_remote_code=True).spec() == spec
    with pytest.raises(ValueError, match="trust"):
        catalogue.build(spec)


def test_spec_is_a_copy() -> None:
    part = Own(4)
    part.spec()["d_model"] = 5
    assert part.spec()["d_model"] == 4


@pytest.mark.parametrize(
    "value", [torch.zeros(1), {1}, torch.relu, object()], ids=["tensor", "set", "function", "object"]
)
def test_arguments_that_json_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Own(d_model=value)  # type: ignore[arg-type]


def test_deepcopy_keeps_the_config() -> None:
    part = Own(4)
    twin = copy.deepcopy(part)
    assert twin.spec() == part.spec()
    assert twin.up.weight is not part.up.weight


def test_cost_of_a_users_part_is_counted() -> None:
    cost = Own(4, 6).cost(batch=2, tokens=5)
    params = 4 * 6 + 6 + 6 * 4 + 4
    assert cost == Cost(
        params=params, active_params=params, flops=2 * 2 * 5 * (4 * 6 + 6 * 4), state_bytes=0, weight_bytes=4 * params
    )


def test_costs_add() -> None:
    assert Cost(1, 2, 3, 4, 5) + Cost(10, 20, 30, 40, 50) == Cost(11, 22, 33, 44, 55)


def test_state_bytes_come_from_the_state() -> None:
    assert OwnMixer(4).state_bytes(tokens=7, batch=2) == 2 * (4 * 4 + 3 * 8)
    assert OwnMixer(4).cost(2, 7).state_bytes == OwnMixer(4).state_bytes(7, 2)


def test_shared_tensors_are_stored_once() -> None:
    part = Own(4)
    once = stored_bytes(part)
    part.again = part.up
    assert stored_bytes(part) == once


def test_aux_losses_are_read_by_path_in_training_only() -> None:
    model = nn.Sequential(Own(4), nn.Identity())
    x = torch.ones(1, 2, 4)
    model.eval()(x)
    assert aux_losses(model) == {}
    model.train()(2 * x)
    assert aux_losses(model)["0.size"].item() == 4.0


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "4"])
def test_require_positive(value: object) -> None:
    with pytest.raises(ValueError, match="Own: d_model must be a positive integer"):
        require_positive(Own, d_model=value)  # type: ignore[arg-type]


WITH_LOSSES = [
    {"name": "topk_moe", "d_model": 8, "d_expert": 4, "n_experts": 4, "k": 2},
    {"name": "switch_moe", "d_model": 8, "d_expert": 4, "n_experts": 4},
    {"name": "sigma_moe", "d_model": 8, "d_expert": 4, "n_experts": 4, "k": 2},
    {"name": "ultra_mem", "d_model": 8, "n_keys": 8, "k": 4, "d_key": 4},
]


@pytest.mark.parametrize("spec", WITH_LOSSES, ids=lambda spec: spec["name"])
def test_a_part_is_copied_costed_and_saved_after_a_training_forward(spec: dict[str, Any], tmp_path: Path) -> None:
    """Its auxiliary losses hang on a graph: a copy comes without them, the part itself keeps them."""
    part = catalogue.build(spec).train()
    before = part.cost(1, 4)
    part(torch.randn(2, 4, part.d_in))
    losses = aux_losses(part)
    assert losses
    assert all(loss.requires_grad for loss in losses.values())
    copied = copy.deepcopy(nn.Sequential(part))
    assert aux_losses(copied) == {}
    assert part.cost(1, 4) == before
    torch.save(part, tmp_path / "part.pt")
    assert aux_losses(part) == losses
    sum(losses.values()).backward()
