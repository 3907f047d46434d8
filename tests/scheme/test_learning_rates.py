"""DepthMuP and WidthScaling: the factors are those of the tables, and a step's size does not depend on the model's."""

import math

import pytest
import torch

from layersmith.errors import UserError
from layersmith.scheme.depth_mup import DepthMuP
from layersmith.scheme.shared.edits import attention_maps, ffn_maps
from layersmith.scheme.shared.flow import plain_model, sign_step
from layersmith.scheme.shared.groups import by_kind
from layersmith.scheme.width_scaling import WidthScaling

WIDTH, DEPTH = 128, 4


def after(scheme, width=WIDTH, depth=DEPTH):
    torch.manual_seed(0)
    model = plain_model(depth, {}, d_model=width)
    scheme.apply(model)
    return model


def factor_of(scheme, model):
    """Kind -> learning rate for lr = 1."""
    rate = {id(p): group["lr"] for group in scheme.learning_rates(model, 1.0) for p in group["params"]}
    found = {kind: {rate[id(p)] for p in parameters} for kind, parameters in by_kind(model).items()}
    return {kind: one for kind, (one,) in found.items()}


@pytest.mark.oracle("depth_mup")
def test_depth_mup_is_its_table():
    scheme = DepthMuP(base_width=32, base_depth=1, branch=0.5)
    model = after(scheme)
    assert factor_of(scheme, model) == pytest.approx(
        {"embedding": 1, "hidden": 1 / 4 / 2, "layer_vectors": 1 / 2, "final_vectors": 1, "readout": 1 / 4}
    )
    assert model.layers[2].ffn_factors == (1.0, 0.25)
    assert model.lm_head.weight.var().item() == pytest.approx(32 / 128**2, rel=0.06)
    for linear in (attention_maps(model, 0) | ffn_maps(model, 0)).values():
        assert linear.weight.var().item() == pytest.approx(1 / linear.in_features, rel=0.06)


@pytest.mark.oracle("depth_mup")
def test_at_its_base_size_depth_mup_changes_no_rate():
    scheme = DepthMuP(base_width=WIDTH, base_depth=DEPTH)
    model = after(scheme)
    assert set(factor_of(scheme, model).values()) == {1.0}
    assert model.layers[0].ffn_factors == (1.0, 1.0)


@pytest.mark.oracle("width_scaling")
@pytest.mark.parametrize(
    ("mode", "optimizer", "expected"),
    [
        (0.0, "adam", (2**-1, 2**-3, 2**-2)),
        (1.0, "adam", (1, 2**-2, 2**-2)),
        (0.0, "sgd", (1, 2**-2, 2**-2)),
        (1.0, "sgd", (4, 1, 2**-2)),
    ],
)
def test_width_scaling_is_its_table(mode, optimizer, expected):
    """A model four times as wide as the base: (vectors and embedding, matrices, output map)."""
    scheme = WidthScaling(base_width=32, mode=mode, optimizer=optimizer)
    model = after(scheme)
    found = factor_of(scheme, model)
    assert (found["embedding"], found["hidden"], found["readout"]) == pytest.approx(expected)
    assert found["layer_vectors"] == found["final_vectors"] == found["embedding"]
    assert model.lm_head.weight.var().item() == pytest.approx(0.25**mode / 128, rel=0.06)


@pytest.mark.oracle("width_scaling")
@pytest.mark.parametrize("mode", [0.0, 1.0])
def test_sgd_moves_the_logits_alike_at_every_width(mode):
    """One plain gradient step at the scheme's rates, and for the neural tangent mode at one rate for all."""
    moved = {}
    for width in (128, 512):
        for rates in (WidthScaling(128, mode, "sgd"), WidthScaling(width, mode, "sgd")):
            model = after(WidthScaling(128, mode, "sgd"), width, 2)
            ids = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
            old = model(input_ids=ids, labels=ids)
            old.loss.backward()
            torch.optim.SGD(rates.learning_rates(model, 1e-4)).step()
            change = (model(input_ids=ids).logits - old.logits).detach().square().mean().sqrt().item()
            moved[width, rates.base_width == 128] = change
    assert abs(math.log(moved[512, True] / moved[128, True], 4)) < 0.35
    if mode == 0.0:
        assert moved[512, False] > 1.3 * moved[512, True]


def test_sign_step_restores_the_model():
    model = after(DepthMuP())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert sign_step(model, torch.randint(64, (1, 8)), DepthMuP()) > 0
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("scheme", [DepthMuP(), WidthScaling()])
def test_tied_tables_are_refused(scheme):
    model = plain_model(2, {})
    model.config.tie_word_embeddings = True
    with pytest.raises(UserError, match="tie_word_embeddings=False"):
        scheme.apply(model)
