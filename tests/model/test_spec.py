"""Short specs: every part stands in a model, widths that are found cost what was asked, and slips are named."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from layersmith import catalogue
from layersmith.errors import UserError
from layersmith.model import TransformerLM
from layersmith.model.spec import expand, read_spec
from layersmith.model.task_model import Ends, build, fit_width

TOKENS = Ends("tokens", "tokens", 64, 64, 32, causal=True)
FEATURES = Ends("features", "class", 5, 3, 17, causal=False)
RACING = ("mixer", "ffn", "norm", "block")
PARTS = [(entry.family, name) for name, entry in catalogue.ENTRIES.items() if entry.family in RACING]


@pytest.mark.parametrize(("family", "name"), PARTS)
def test_every_part_races_without_code_of_its_own(family: str, name: str) -> None:
    """It is given the arguments it needs, learns between both kinds of ends, and its size can be chosen."""
    spec = read_spec({family: name})
    for ends in (TOKENS, FEATURES):
        if ends.causal and not _can_be_causal(family, name):
            with pytest.raises(UserError, match="not causal"):
                build(spec, ends)
            continue
        fitted = fit_width(spec, ends, params=120_000, tolerance=0.3)
        model = build(fitted, ends)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(120_000, rel=0.3)
        inputs = torch.randn(2, 17, 5) if ends.reads == "features" else torch.randint(64, (2, 32))
        outputs = model(inputs)
        assert outputs.shape == ((2, 3) if ends.writes == "class" else (2, 32, 64))
        assert outputs.isfinite().all()


def _can_be_causal(family: str, name: str) -> bool:
    """Whether a mixer or a block is causal, or is when asked to."""
    if family not in ("mixer", "block"):
        return True
    part = catalogue.resolve(name)
    return "causal" in inspect.signature(part).parameters or part(**catalogue.entry(name).example).causal


@pytest.mark.parametrize("mixer", ["softmax_attention", "deltanet", "linear_attention"])
@pytest.mark.parametrize("target", [60_000, 100_000, 400_000])
def test_the_counted_parameters_are_those_asked_for(mixer: str, target: int) -> None:
    fitted = fit_width(read_spec({"mixer": mixer}), TOKENS, params=target)
    assert sum(p.numel() for p in build(fitted, TOKENS).parameters()) == pytest.approx(target, rel=0.05)
    assert fitted.d_model % (2 * fitted.n_heads) == 0


def test_flops_and_state_are_those_asked_for() -> None:
    from layersmith.measuring.flops import count_flops

    for mixer in ("softmax_attention", "deltanet"):
        fitted = fit_width(read_spec({"mixer": mixer}), TOKENS, flops=2e7)
        model = build(fitted, TOKENS)
        with torch.no_grad():
            counted = count_flops(lambda model=model: model(torch.zeros(1, 32, dtype=torch.long)))
        assert counted == pytest.approx(2e7, rel=0.05)
        sized = fit_width(read_spec({"mixer": mixer}), TOKENS, state_bytes=2e4, tolerance=0.1)
        states = [layer.mixer(torch.randn(1, 32, sized.d_model))[1] for layer in build(sized, TOKENS).layers]
        kept = sum(t.numel() * t.element_size() for state in states for t in state.values() if t.ndim > 1)
        assert kept == pytest.approx(2e4, rel=0.11)


def test_an_impossible_budget_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"nearest is params=\d+, at d_model=8"):
        fit_width(read_spec({}), TOKENS, params=10)
    with pytest.raises(UserError, match="exactly one"):
        fit_width(read_spec({}), TOKENS, params=1e5, flops=1e9)


def test_it_equals_the_language_model_of_the_same_configuration() -> None:
    spec = read_spec({"d_model": 32, "mixer": "deltanet", "ffn": "gr_kan"})
    model, ids = build(spec, TOKENS), torch.randint(64, (2, 32))
    reference = TransformerLM(expand(spec, 64))
    renamed = {
        name.replace("embed.", "embed_tokens.").replace("head.", "lm_head."): value
        for name, value in model.state_dict().items()
    }
    reference.load_state_dict(renamed)
    torch.testing.assert_close(model.eval()(ids), reference.eval()(ids).logits)


EXTRAS = [{"loops": 3}, {"macaron": True, "inner": 0.5}, {"embed_scale": 8}]


@pytest.mark.parametrize("extra", EXTRAS, ids=str)
def test_loops_macaron_layers_and_scaled_embeddings_are_those_of_the_language_model(extra: dict[str, Any]) -> None:
    """Same outputs, and FLOPs as counted while it runs."""
    from layersmith.measuring.flops import count_flops

    spec = read_spec({"d_model": 32, **extra})
    model, ids = build(spec, TOKENS).eval(), torch.randint(64, (2, 32))
    reference = TransformerLM(expand(spec, 64)).eval()
    renamed = {
        name.replace("embed.", "embed_tokens.").replace("head.", "lm_head."): value
        for name, value in model.state_dict().items()
    }
    reference.load_state_dict(renamed)
    torch.testing.assert_close(model(ids), reference(ids).logits)
    with torch.no_grad():
        counted = count_flops(lambda: model(ids[:1]))
    assert counted == pytest.approx(model.cost().flops, rel=0.05)
    plain = build(read_spec({"d_model": 32}), TOKENS)
    if "loops" in extra:
        assert model.params() == plain.params()
        assert model.cost().state_bytes == 3 * plain.cost().state_bytes
    elif "macaron" in extra:
        assert model.params() == plain.params() + 2 * 32  # a norm more in each layer
        ffn, first = model.layers[0].ffn, model.layers[0].first_ffn
        assert not torch.equal(ffn.up.weight, first.up.weight)
    else:
        assert model.params() == plain.params() + 1
        with torch.no_grad():
            model.embed_scale.fill_(1.0)
            model.embed.weight.mul_(8.0)
        torch.testing.assert_close(model(ids), reference(ids).logits)


def test_in_an_inverted_model_a_token_is_a_series() -> None:
    """Forecasts follow their series into another order; the FLOPs are those counted while it runs."""
    from layersmith.measuring.flops import count_flops

    ends = Ends("features", "real", 5, 5 * 4, 17, causal=False, once=True)
    model = build(read_spec({"d_model": 32, "rope_theta": None, "inverted": True}), ends).eval()
    assert (model.embed.in_features, model.head.out_features) == (17, 4)
    inputs, order = torch.randn(3, 17, 5), torch.tensor([2, 0, 4, 1, 3])
    with torch.no_grad():
        found = model(inputs)
        assert found.shape == (3, 17, 20)
        foretold = found[:, -1].unflatten(1, (4, 5))
        torch.testing.assert_close(model(inputs[..., order])[:, -1].unflatten(1, (4, 5)), foretold[..., order])
        changed = inputs.clone()
        changed[:, 3, 0] += 1.0  # an early hour of one series is read, and by the others too
        assert ((model(changed)[:, -1] - found[:, -1]).unflatten(1, (4, 5)).abs().amax((0, 1)) > 1e-6).all()
        counted = count_flops(lambda: model(inputs[:1]))
    assert counted == pytest.approx(model.cost().flops, rel=0.05)
    with pytest.raises(UserError, match="several series"):
        build(read_spec({"inverted": True}), TOKENS)


def test_layers_may_differ_and_arguments_given_are_kept() -> None:
    spec = read_spec(
        {
            "d_model": 32,
            "n_heads": 4,
            "layers": [{"mixer": "deltanet"}, {"ffn": {"name": "glu", "d_hidden": 24}, "norm": "layer_norm"}],
        }
    )
    config = expand(spec, 64)
    assert [layer["mixer"]["name"] for layer in config.layers] == ["deltanet", "softmax_attention"]
    assert config.layers[0]["mixer"]["n_heads"] == 4
    assert config.layers[1]["mixer"]["rope_theta"] == 10000.0
    assert config.layers[1]["ffn"] == {"name": "glu", "d_hidden": 24}
    assert config.layers[1]["ffn_norm"] == {"name": "layer_norm"}
    assert config.final_norm == {"name": "rms_norm"}
    assert expand(read_spec({"mixer": "softmax_attention"}), 64, causal=False).layers[0]["mixer"]["causal"] is False


def test_inner_widths_are_in_proportion_to_the_examples() -> None:
    narrow, wide = (expand(read_spec({"d_model": d, "ffn": "hourglass"}), 8).layers[0]["ffn"] for d in (32, 128))
    assert (narrow["d_narrow"], wide["d_narrow"]) == (16, 64)
    assert narrow["depth"] == wide["depth"] == 3
    assert expand(read_spec({"d_model": 32, "inner": 2.0}), 8).layers[0]["ffn"]["d_hidden"] == 128


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mixr": "deltanet"}, "Did you mean 'mixer'"),
        ({"mixer": "deltnet"}, "Did you mean 'deltanet'"),
        ({"mixer": "glu"}, "of the family 'ffn'"),
        ({"ffn": 3}, "is a name"),
        ({"d_model": 0}, "whole number from 1"),
        ({"inner": -1.0}, "more than 0"),
        ({"loops": 0}, "loops of a model must be a whole number"),
        ({"macaron": 1}, "true or false"),
        ({"embed_scale": 0}, "other than 0"),
        ({"layers": [{"attention": "deltanet"}]}, "a layer is a dict of"),
    ],
    ids=str,
)
def test_specs_that_say_nothing_that_can_be_built(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_spec(given)


def test_widths_are_whole_heads() -> None:
    with pytest.raises(UserError, match="no multiple of n_heads"):
        expand(read_spec({"d_model": 33}), 8)
