"""The dispatch that mixtures of experts share: one matrix per expert over rows sorted by expert."""

import pytest
import torch
from torch import library
from torch.utils.flop_counter import FlopCounterMode

from layersmith.ffn.shared.experts import grouped_linear, mix_experts


def by_loops(rows, weight, counts):
    owner = [e for e, c in enumerate(counts.tolist()) for _ in range(c)]
    return torch.stack([weight[e] @ row for e, row in zip(owner, rows, strict=True)])


@pytest.mark.parametrize("counts", [[2, 0, 3, 1], [0, 0, 6, 0], [6, 0, 0, 0]])
def test_grouped_linear_by_loops_with_gradients(counts):
    torch.manual_seed(0)
    counts = torch.tensor(counts)
    rows = torch.randn(6, 5, dtype=torch.double, requires_grad=True)
    weight = torch.randn(4, 3, 5, dtype=torch.double, requires_grad=True)
    got, expected = grouped_linear(rows, weight, counts), by_loops(rows, weight, counts)
    torch.testing.assert_close(got, expected)
    grad = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, (rows, weight), grad),
        torch.autograd.grad(expected, (rows, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_custom_operator_keeps_torch_s_rules():
    rows, weight = torch.randn(6, 5, requires_grad=True), torch.randn(4, 3, 5, requires_grad=True)
    arguments = (rows, weight, torch.tensor([2, 0, 3, 1]))
    rules = ("test_schema", "test_faketensor")
    library.opcheck(torch.ops.layersmith.grouped_linear, arguments, test_utils=rules)


def test_flops_are_those_of_the_rows_not_of_all_experts():
    with FlopCounterMode(display=False) as counter:
        rows = torch.randn(6, 5, requires_grad=True)
        grouped_linear(rows, torch.randn(4, 3, 5, requires_grad=True), torch.tensor([6, 0, 0, 0])).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 6 * 3 * 5  # forward, gradient of the rows, gradient of the weights


def test_no_rows_at_all():
    rows = torch.randn(0, 5, requires_grad=True)
    weight = torch.randn(4, 3, 5, requires_grad=True)
    y = grouped_linear(rows, weight, torch.zeros(4, dtype=torch.long))
    assert y.shape == (0, 3)
    y.sum().backward()
    assert not weight.grad.any()


@pytest.mark.parametrize("tokens", [1, 7])
def test_mix_experts_by_loops(tokens):
    torch.manual_seed(0)
    x, factor = torch.randn(tokens, 4, dtype=torch.double), torch.randn(5, dtype=torch.double)
    chosen = torch.stack([torch.randperm(5)[:3] for _ in range(tokens)])
    weight = torch.rand(tokens, 3, dtype=torch.double)
    seen = []

    def run(rows, counts):
        seen.append(counts.tolist())
        return rows * factor.repeat_interleave(counts)[:, None]  # expert e multiplies by factor[e]

    got = mix_experts(x, chosen, weight, 5, run)
    for t in range(tokens):
        expected = sum(weight[t, k] * factor[chosen[t, k]] * x[t] for k in range(3))
        torch.testing.assert_close(got[t], expected)
    assert seen == [[int((chosen == e).sum()) for e in range(5)]]
