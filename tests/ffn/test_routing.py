"""The shared core of routers, against loops over tokens and against transformers' balancing loss."""

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from layersmith.ffn.shared.routing import balance_loss, capacity, probabilities, within_capacity


@pytest.mark.official("topk_moe")
@pytest.mark.parametrize("k", [1, 2, 4])
def test_balance_loss_is_that_of_mixtral(k):
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(-1)
    expected = load_balancing_loss_func((logits,), num_experts=4, top_k=k)
    torch.testing.assert_close(balance_loss(p, p.topk(k).indices), expected)


def test_balance_loss_at_equal_use_and_at_collapse():
    even = torch.full((6, 3), 1 / 3)
    assert balance_loss(even, torch.tensor([[0], [1], [2]] * 2)).item() == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0.0, 0.0]] * 6)
    assert balance_loss(collapsed, torch.zeros(6, 1, dtype=torch.long)).item() == pytest.approx(3.0)
    assert balance_loss(even[:0], torch.zeros(0, 1, dtype=torch.long)).item() == 0


def test_probabilities_are_not_computed_in_sixteen_bits():
    x, router = torch.randn(40, 8), torch.randn(3, 8)
    p = probabilities(x.bfloat16(), router.bfloat16())
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, (x.bfloat16().float() @ router.bfloat16().float().T).softmax(-1))
    exact = (x @ router.T).softmax(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(probabilities(x, router), exact)


@pytest.mark.parametrize(("tokens", "factor", "limit"), [(10, 1.0, 3), (8, 1.0, 2), (10, 1.25, 4), (0, 1.0, 0)])
def test_capacity_rounds_up(tokens, factor, limit):
    assert capacity(tokens, 4, factor) == limit


@pytest.mark.parametrize("k", [1, 2])
def test_within_capacity_by_loops(k):
    torch.manual_seed(0)
    chosen = torch.stack([torch.randperm(4)[:k] for _ in range(30)])
    room, expected = [5] * 4, torch.zeros(30, k, dtype=torch.bool)
    for choice in range(k):
        for token in range(30):
            expert = chosen[token, choice]
            expected[token, choice] = room[expert] > 0
            room[expert] -= 1
    assert torch.equal(within_capacity(chosen, 4, 5), expected)
    assert not expected.all()
