"""Squared cosines against a simulated swap test, by their limits, and with what they can tell apart."""

import math

import pytest
import torch

from layersmith.ffn.swap_test import SwapTest


def chance_of_zero(x: torch.Tensor, w: torch.Tensor) -> float:
    """Of the control qubit, after a swap test on the states whose amplitudes are x / |x| and w / |w|, gate by gate."""
    first, second = x / x.norm(), w / w.norm()
    n = len(first)
    state = torch.zeros(2, n, n, dtype=torch.float64)
    state[0] = torch.outer(first, second)
    hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    state = torch.einsum("ab,bij->aij", hadamard, state)
    state[1] = state[1].T.clone()  # controlled: exchange the two registers where the control is 1
    state = torch.einsum("ab,bij->aij", hadamard, state)
    return state[0].square().sum().item()


@pytest.mark.oracle("swap_test")
@torch.no_grad()
def test_equals_a_simulated_swap_test():
    torch.manual_seed(0)
    part, x = SwapTest(8, 5).double(), torch.randn(4, 8, dtype=torch.float64)
    h = torch.tensor([[2 * chance_of_zero(row, w) - 1 for w in part.up.weight] for row in x], dtype=torch.float64)
    torch.testing.assert_close(part.overlaps(x), h, atol=1e-10, rtol=0)
    torch.testing.assert_close(part(x), h @ part.down.weight.T + part.down.bias, atol=1e-10, rtol=0)


@pytest.mark.oracle("swap_test")
@torch.no_grad()
def test_length_and_sign_of_an_input_are_not_seen():
    torch.manual_seed(0)
    part, x = SwapTest(6, 9).double(), torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(part(-7 * x), part(x), atol=1e-12, rtol=0)
    assert (part.overlaps(part.up.weight).diagonal() - 1).abs().max() < 1e-12
    assert not part.overlaps(torch.zeros(2, 6, dtype=torch.float64)).any()


def test_it_learns_an_exclusive_or_of_signs():
    torch.manual_seed(0)
    part = SwapTest(2, 4)
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    target = torch.tensor([1.0, -1.0, -1.0, 1.0])
    optimizer = torch.optim.Adam(part.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (part(x)[:, 0] - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-2


@torch.no_grad()
def test_wide_inputs_do_not_overflow_in_half_precision():
    part = SwapTest(64, 8).half()
    assert torch.isfinite(part(torch.full((2, 64), 3e4, dtype=torch.float16))).all()
