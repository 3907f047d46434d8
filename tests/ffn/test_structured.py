"""Structured feed-forward and self-guided training."""

import math

import pytest
import torch

from layersmith import catalogue
from layersmith.contract import aux_losses
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.structured import StructuredFFN

D, HIDDEN = 8, 12
SIZES = {
    "low_rank": {"rank": 3},
    "block_shuffle": {"blocks": 2},
    "block_dense": {"rank": 4, "blocks": 2},
    "butterfly": {},
}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(structure: str, **config) -> StructuredFFN:
    torch.manual_seed(1)
    return StructuredFFN(D, HIDDEN, structure, **{**SIZES[structure], **config}).double()


@pytest.mark.oracle("structured")
@pytest.mark.parametrize("structure", SIZES)
@pytest.mark.parametrize("gated", [False, True])
def test_equals_the_dense_part_with_its_materialised_matrices(x, structure, gated):
    m = part(structure, gated=gated, act="silu", bias=True)
    dense = (GLU if gated else MLP)(D, HIDDEN, act="silu", bias=True).double()
    with torch.no_grad():
        for name, structured in m.maps.items():
            own, zero = getattr(dense, name), torch.zeros(1, structured.d_in, dtype=torch.double)
            torch.nn.init.normal_(own.bias)
            own.weight.copy_(structured.dense_weight())
            (structured.u.bias if hasattr(structured, "u") else structured.bias).copy_(own.bias)
            torch.testing.assert_close(structured(zero)[0], own.bias)
    torch.testing.assert_close(m(x), dense(x))


@pytest.mark.parametrize("structure", SIZES)
def test_guided_output_starts_as_the_unguided_one(x, structure):
    guided, plain = part(structure, self_guided=True).train(), part(structure)
    torch.testing.assert_close(guided(x), plain(x))


def test_guides_are_mixed_in_by_a_cosine(x):
    m = part("low_rank", act="identity", self_guided=True).train()
    for guide in m.guides.values():
        torch.nn.init.normal_(guide)
    m.guide(1 / 3)
    m.guiding = True  # whatever the draw was
    r = (1 + math.cos(math.pi / 3)) / 2
    up = r * m.guides["up"] + (1 - r) * m.maps["up"].dense_weight()
    down = r * m.guides["down"] + (1 - r) * m.maps["down"].dense_weight()
    torch.testing.assert_close(m(x), x @ up.T @ down.T)


def test_guides_run_with_the_probability_of_their_share_and_only_in_training(x):
    m, plain = part("block_dense", self_guided=True), part("block_dense")
    for guide in m.guides.values():
        torch.nn.init.normal_(guide)
    torch.manual_seed(0)
    draws = []
    for _ in range(400):
        m.guide(0.75)
        draws.append(m.guiding)
        expected_guided = m.train()(x)
        assert m.guiding != torch.equal(expected_guided, plain(x))
    assert sum(draws) / 400 == pytest.approx((1 + math.cos(0.75 * math.pi)) / 2, abs=0.05)
    m.guiding = True
    assert not torch.equal(m.train()(x), plain(x))
    assert torch.equal(m.eval()(x), plain(x))


def test_at_the_end_the_guides_are_silent_and_can_be_dropped(x):
    m, plain = part("low_rank", self_guided=True).train(), part("low_rank")
    m.guide(1.0)
    assert torch.equal(m(x), plain(x))
    m.drop_guide()
    assert torch.equal(m(x), plain(x))
    assert m.spec() == plain.spec()
    assert m.cost(1, 5) == plain.cost(1, 5)
    rebuilt = catalogue.build(m.spec()).double()
    rebuilt.load_state_dict(m.state_dict())
    assert torch.equal(rebuilt(x), plain(x))


def test_guide_without_guides_is_refused():
    with pytest.raises(ValueError, match="there is no guide"):
        part("low_rank").guide(0.5)
    with pytest.raises(ValueError, match="there is no guide"):
        part("low_rank").drop_guide()


def test_guided_training_fits_a_teacher_and_ends_without_guides():
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    target = MLP(16, 64, bias=False)(x).detach()
    m = StructuredFFN(16, 64, "low_rank", rank=6, self_guided=True).train()
    optimizer = torch.optim.Adam(m.parameters(), lr=3e-3)
    for step in range(100):
        m.guide(step / 50)
        optimizer.zero_grad()
        (m(x) - target).square().mean().backward()
        optimizer.step()
    m.drop_guide()
    assert (m(x) - target).square().mean() < 0.5 * target.square().mean()


def test_noisy_maps_are_plain_in_use_and_tell_their_divergence_in_training():
    torch.manual_seed(0)
    m = StructuredFFN(D, HIDDEN, "variational", act="silu", bias=True).double().eval()
    dense = MLP(D, HIDDEN, act="silu").double()
    for name, noisy in m.maps.items():
        linear = getattr(dense, name)
        linear.load_state_dict({"weight": noisy.dense_weight(), "bias": noisy.bias})
    x = torch.randn(3, D).double()
    torch.testing.assert_close(m(x), dense(x))
    assert not aux_losses(m)
    m.train()(x)
    assert aux_losses(m).keys() == {"maps.up.kl", "maps.down.kl"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"structure": "monarch", "blocks": 2}, "structure must be one of low_rank, block_shuffle, block_dense"),
        ({"structure": "low_rank"}, "low_rank needs rank; given: nothing"),
        ({"structure": "low_rank", "rank": 3, "blocks": 2}, "low_rank needs rank; given"),
        ({"structure": "block_dense", "rank": 4}, "block_dense needs rank and blocks"),
        ({"structure": "butterfly", "blocks": 2}, "butterfly needs no sizes; given"),
        ({"structure": "block_shuffle", "blocks": 5}, "blocks=5 must divide"),
        ({"structure": "low_rank", "rank": 9}, "rank 9 exceeds"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        StructuredFFN(D, HIDDEN, **config)
