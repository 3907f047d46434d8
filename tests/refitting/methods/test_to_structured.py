"""Structured weight matrices: exact where the matrix has the structure, and fitted in the metric of the inputs."""

import pytest
import torch

from layersmith.linear.block_dense import BlockDense
from layersmith.linear.block_shuffle import BlockShuffle
from layersmith.linear.butterfly import Butterfly
from layersmith.refitting import methods
from layersmith.refitting.methods.replace.to_structured import fitted

SETTINGS = {
    "block_shuffle": {"structure": "block_shuffle", "blocks": 4},
    "block_dense": {"structure": "block_dense", "blocks": 4, "keep": 0.5},
    "butterfly": {"structure": "butterfly"},
}


def gram(width=32):
    torch.manual_seed(0)
    x = torch.randn(600, 6).double() @ torch.randn(6, width).double() + 0.1 * torch.randn(600, width).double()
    return x.T @ x / len(x)


def plain(weight, structure, rank):
    if structure == "butterfly":
        return Butterfly.from_weight(weight)
    return BlockShuffle.from_weight(weight, 4) if structure == "block_shuffle" else BlockDense.from_weight(weight, rank)


@pytest.mark.parametrize("structure", SETTINGS)
def test_a_matrix_of_the_structure_is_found_whatever_the_inputs(structure):
    torch.manual_seed(1)
    made = {
        "block_shuffle": BlockShuffle(32, 48),
        "block_dense": BlockDense(32, 48, 12),
        "butterfly": Butterfly(32, 48),
    }
    weight, bias = made[structure].double().dense_weight().detach(), torch.randn(48, dtype=torch.double)
    with torch.no_grad():
        part = fitted(weight, gram(), SETTINGS[structure], bias)
    torch.testing.assert_close(part.dense_weight(), weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(part(torch.zeros(32, dtype=torch.double)), bias)


@pytest.mark.parametrize("structure", SETTINGS)
def test_fit_to_the_inputs_beats_the_projection_of_the_weights(structure):
    torch.manual_seed(1)
    weight, second = torch.randn(48, 32, dtype=torch.double), gram()

    def error(part):
        difference = part.dense_weight() - weight
        return float((difference @ second * difference).sum())

    with torch.no_grad():
        ours = fitted(weight, second, SETTINGS[structure])
        rank = ours.u.in_features if structure == "block_dense" else 0
        assert error(ours) < 0.8 * error(plain(weight, structure, rank))
        assert error(ours) < 0.9 * float((weight @ second * weight).sum())


def test_one_block_is_the_original(view):
    at = view("layers.1.ffn")
    method = methods.get("structured")
    assert at.local_error(method.build(at, {"structure": "block_shuffle", "blocks": 1})) < 1e-6


def test_more_blocks_are_further_off(view):
    at = view("layers.1.ffn")
    method = methods.get("structured")
    errors = [at.local_error(method.build(at, {"structure": "block_shuffle", "blocks": b})) for b in (1, 2, 4)]
    assert errors == sorted(errors)
    assert errors[1] < 0.9
