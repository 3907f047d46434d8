"""mu-parametrised AdamW: its table of rates, AdamW at the base width, and the coordinate check over widths."""

from __future__ import annotations

import pytest
import torch

from layersmith.model.spec import read_spec
from layersmith.model.task_model import Ends, TaskModel, build
from layersmith.racing.optimizer import set_rate
from layersmith.racing.optimizers import build_rule

ENDS = Ends("tokens", "tokens", 24, 24, 16, causal=True)
BATCH = torch.randint(24, (8, 17), generator=torch.Generator().manual_seed(0))


def model_of(width: int, mixer: str = "softmax_attention") -> TaskModel:
    torch.manual_seed(0)
    return build(read_spec({"d_model": width, "mixer": mixer}), ENDS)


def test_rates_are_its_table_and_at_the_base_width_all_one():
    model = model_of(64)
    with torch.no_grad():
        before = model(BATCH[:, :-1])
    (optimizer,) = build_rule({"name": "mup_adamw", "base_width": 16}).optimizers(model, 0.1, 0.2)
    times = {
        id(p): (group["times"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    kinds = {name: times[id(p)] for name, p in model.named_parameters()}
    assert kinds["embed.weight"] == kinds["head.weight"] == (1.0, 0.2)
    assert kinds["layers.1.mixer.q.weight"] == kinds["layers.0.ffn.down.weight"] == (0.25, 0.2)
    assert kinds["final_norm.weight"] == kinds["layers.0.norm.weight"] == (1.0, 0.0)
    assert model.layers[0].mixer.scale == pytest.approx(32**-0.5 / 2)
    for layer in model.layers:
        layer.mixer.scale = None
    with torch.no_grad():
        torch.testing.assert_close(model(BATCH[:, :-1]), before / 4)


def test_at_the_base_width_it_is_adamw():
    found = []
    for rule in ({"name": "mup_adamw", "base_width": 32}, "adamw"):
        model = model_of(32)
        stepped(model, rule, 1e-2)
        found.append(model(BATCH[:, :-1]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_scores_fall_like_the_head_and_not_like_its_root():
    for mixer in ("softmax_attention", "power_softmax"):
        scales = []
        for width in (32, 128):
            model = model_of(width, mixer)
            build_rule({"name": "mup_adamw", "base_width": 32}).optimizers(model, 0.1, 0.0)
            scales.append(model.layers[0].mixer.scale)
        assert scales[0] == pytest.approx(4 * scales[1])


def test_zero_starts_queries_and_the_output_map_at_nothing_and_learns():
    model = model_of(64)
    build_rule({"name": "mup_adamw", "zero": True}).optimizers(model, 0.1, 0.0)
    assert not model.head.weight.any()
    assert not model.layers[0].mixer.q.weight.any()
    assert model.layers[0].mixer.k.weight.any()
    model = model_of(64)
    first, last = stepped(model, {"name": "mup_adamw", "zero": True}, 1e-2, steps=12)
    assert last < 0.9 * first


def stepped(model: TaskModel, rule: str | dict, lr: float, steps: int = 5) -> tuple[float, float]:
    """Some steps on one batch: the loss before the first and before the last."""
    built = build_rule(rule)
    optimizers, losses = built.optimizers(model, lr, 0.0), []

    def gradient() -> float:
        model.zero_grad()
        logits = model(BATCH[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), BATCH[:, 1:].flatten())
        loss.backward()
        losses.append(loss.item())
        return losses[-1]

    for _ in range(steps):
        set_rate(optimizers, lr)
        built.step(optimizers, gradient)
    return losses[0], losses[-1]


@torch.no_grad()
def streams(model: TaskModel) -> list[torch.Tensor]:
    """What each layer adds to the stream, and the logits."""
    x, found = model.embed(BATCH[:, :-1]), []
    for layer in model.layers:
        y = layer(x)[0]
        found.append(y - x)
        x = y
    return [*found, model.head(model.final_norm(x))]  # with what the rule does to logits


def moved(rule: str | dict, width: int) -> list[float]:
    """Mean absolute change of each after five steps."""
    fresh, model = model_of(width), model_of(width)
    build_rule(rule).optimizers(fresh, 1e-2, 0.0)  # the start it gives a model
    stepped(model, rule, 1e-2)
    return [float((after - old).abs().mean()) for after, old in zip(streams(model), streams(fresh), strict=True)]


def test_coordinate_check():
    """What five steps change in a model eight times as wide: alike under mu-parametrisation, and more without."""
    for rule, least, most in (({"name": "mup_adamw", "base_width": 32}, 0.5, 2.0), ("adamw", 2.5, 1e9)):
        narrow, wide = moved(rule, 32), moved(rule, 256)
        growth = [b / a for a, b in zip(narrow, wide, strict=True)]
        assert all(least <= g <= most for g in growth), (rule, growth)


@pytest.mark.parametrize("given", [{"base_width": 0}, {"base_width": 1.5}, {"zero": 1}])
def test_settings_that_cannot_be_are_refused(given):
    with pytest.raises(ValueError, match="mup_adamw: "):
        build_rule({"name": "mup_adamw", **given})
