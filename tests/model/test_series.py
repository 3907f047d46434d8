"""What models do to series at their ends: sizes come back, trend and rest sum up, patches of series keep apart."""

from __future__ import annotations

import pytest
import torch

from layersmith.errors import UserError
from layersmith.measuring.flops import count_flops
from layersmith.model.series import decomposed, patches
from layersmith.model.spec import expand, read_spec
from layersmith.model.task_model import Ends, TaskModel, build

ENDS = Ends("features", "real", 5, 5 * 4, 24, causal=False, once=True)
TOKENS = Ends("tokens", "tokens", 16, 16, 24, causal=True)
FORMS = {
    "inverted": {"inverted": True},
    "decomposed": {"inverted": True, "decompose": 7},
    "patch": {"patch": 6},
    "ts_mixer": {"patch": 6, "block": "ts_mixer", "norm": "layer_norm"},
    "plain": {},
    "samformer": {"inverted": True, "n_layers": 1, "n_heads": 1, "norm": None, "ffn": "zero"},
}


def model_of(**given: object) -> TaskModel:
    torch.manual_seed(0)
    model = build(read_spec({"d_model": 16, "rope_theta": None, **given}), ENDS).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def foretold(model: TaskModel, x: torch.Tensor) -> torch.Tensor:
    """(B, hours foretold, series)."""
    with torch.no_grad():
        return model(x)[:, -1].unflatten(1, (4, 5))


X = torch.randn(3, 24, 5, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("form", FORMS)
def test_an_instance_norm_makes_forecasts_follow_shift_and_size_of_every_series(form: str) -> None:
    model = model_of(instance_norm=True, **FORMS[form])
    size, shift = torch.tensor([2.0, 0.5, 3.0, 1.0, 7.0]), torch.tensor([5.0, -1.0, 0.0, 2.0, 100.0])
    found = foretold(model, 40 * X * size + shift)  # large beside the number that keeps the deviation from 0
    torch.testing.assert_close(found, 40 * foretold(model, X) * size + shift, atol=1e-2, rtol=1e-4)
    plain = model_of(**FORMS[form])
    assert (foretold(plain, 40 * X * size + shift) - foretold(plain, X) * size * 40 - shift).abs().max() > 1


def test_a_series_that_does_not_move_is_foretold_as_it_is() -> None:
    model = model_of(instance_norm=True, inverted=True)
    found = foretold(model, torch.full((1, 24, 5), 3.0, dtype=torch.double))
    torch.testing.assert_close(found, torch.full_like(found, 3.0), atol=0.05, rtol=0)


def test_trend_and_rest_are_a_mean_with_ends_repeated_and_sum_to_the_series() -> None:
    x = X.transpose(1, 2)
    trend, rest = decomposed(x, 7)
    torch.testing.assert_close(trend + rest, x)
    for t in (0, 2, 11, 23):
        seen = [x[..., min(max(s, 0), 23)] for s in range(t - 3, t + 4)]
        torch.testing.assert_close(trend[..., t], sum(seen) / 7)


def test_with_equal_embeddings_a_decomposed_series_is_embedded_whole() -> None:
    model, plain = model_of(inverted=True, decompose=7), model_of(inverted=True)
    with torch.no_grad():
        model.embed.trend.load_state_dict(plain.embed.state_dict())
        model.embed.rest.weight.copy_(plain.embed.weight)
        model.embed.rest.bias.zero_()
    model.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.startswith("embed.")}, strict=False)
    torch.testing.assert_close(foretold(model, X), foretold(plain, X))
    with torch.no_grad():
        model.embed.rest.weight.zero_()
    assert not torch.allclose(foretold(model, X), foretold(plain, X))


@pytest.mark.parametrize("form", ["patch", "ts_mixer"])
def test_patches_of_one_series_are_read_by_that_series_alone_and_in_their_order(form: str) -> None:
    model, changed = model_of(**FORMS[form]), X.clone()
    changed[:, 2, 3] += 1.0
    difference = (foretold(model, changed) - foretold(model, X)).abs().amax((0, 1))
    assert difference[3] > 1e-6
    assert difference[[0, 1, 2, 4]].max() == 0
    assert patches(X, 6).shape == (15, 4, 6)
    assert torch.equal(patches(X, 6)[7, 2], X[1, 12:18, 2])
    swapped = torch.cat((X[:, 6:12], X[:, :6], X[:, 12:]), 1)
    assert not torch.allclose(foretold(model, swapped), foretold(model, X))


@pytest.mark.parametrize("form", FORMS)
def test_flops_are_those_counted_while_it_runs(form: str) -> None:
    model = model_of(instance_norm=True, **FORMS[form])
    with torch.no_grad():
        counted = count_flops(lambda: model(X[:1]))
    assert counted == pytest.approx(model.cost().flops, rel=0.05)
    assert model.params() == model.cost().params


def test_one_layer_of_attention_over_series_is_the_formula_of_samformer() -> None:
    """[X + softmax(X W_Q W_K^T X^T / sqrt(d)) X W_V W_O] W, behind an embedding of the hours."""
    model = model_of(**FORMS["samformer"])
    mixer, x = model.layers[0].mixer, model.embed(X.transpose(1, 2))
    scores = x @ mixer.q.weight.T @ mixer.k.weight @ x.mT / 4
    want = (x + scores.softmax(-1) @ x @ mixer.v.weight.T @ mixer.o.weight.T) @ model.head.weight.T
    torch.testing.assert_close(foretold(model, X), want.transpose(1, 2).detach())
    assert [name for name, _ in model.named_parameters() if "norm" in name] == []


def test_norms_can_be_left_out_of_any_model() -> None:
    config = expand(read_spec({"norm": None, "macaron": True}), 16)
    assert config.final_norm is None
    assert config.layers[0]["norm"] is config.layers[0]["ffn_norm"] is config.layers[0]["first"]["norm"] is None
    config = expand(read_spec({"norm": None, "layers": [{"norm": "rms_norm"}, {"block": "parallel"}]}), 16)
    assert config.layers[0]["norm"] == {"name": "rms_norm"}
    assert config.layers[1]["norm"] is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"instance_norm": 1}, "true or false"),
        ({"patch": 0}, "from 1 on"),
        ({"patch": 6, "inverted": True}, "give one of them"),
        ({"decompose": 7}, "goes with"),
        ({"decompose": 8, "inverted": True}, "odd number"),
        ({"decompose": "wide"}, "from 3 on"),
        ({"mixer": None}, "a name, or a dict"),
    ],
    ids=str,
)
def test_entries_that_cannot_be_are_refused(given: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_spec(given)


@pytest.mark.parametrize("given", [{"instance_norm": True}, {"patch": 6}, {"inverted": True}], ids=str)
def test_tasks_without_series_are_refused(given: dict) -> None:
    with pytest.raises(UserError, match="several series"):
        build(read_spec(given), TOKENS)


def test_patches_that_do_not_divide_the_hours_are_refused() -> None:
    with pytest.raises(UserError, match="does not divide"):
        build(read_spec({"patch": 7}), ENDS)
