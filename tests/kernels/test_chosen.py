"""Kernels for few tokens and chosen rows, against the references in float64."""

import pytest
import torch
from torch import library
from torch.utils.flop_counter import FlopCounterMode

from layersmith.ffn.shared.experts import grouped_linear
from layersmith.ffn.topk_glu import TopKGLU
from layersmith.ffn.topk_mlp import TopKMLP
from layersmith.kernels import chosen as kernel
from layersmith.kernels import native


@pytest.fixture(autouse=True)
def _built():
    assert native.loaded(), "these tests need a C++ compiler and ninja"


def by_loops(x, hidden, chosen, up, down):
    y = torch.zeros(len(x), down.shape[1], dtype=torch.double)
    for n in range(len(x)):
        for h, i in zip(hidden[n].double(), chosen[n], strict=True):
            factor = h if up is None else h * (up[i].double() @ x[n].double())
            y[n] += factor * down[i].double()
    return y


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("tokens", "k", "width"), [(1, 1, 5), (3, 4, 16), (2, 33, 37), (1, 100, 64), (0, 3, 8)])
def test_chosen_rows(tokens, k, width, gated):
    torch.manual_seed(0)
    x, hidden = torch.randn(tokens, width), torch.randn(tokens, k)
    up, down = (torch.randn(128, width) for _ in range(2))
    chosen = torch.randint(128, (tokens, k))
    up = up if gated else None
    got = kernel.chosen_rows(x, hidden, chosen, up, down)
    torch.testing.assert_close(got.double(), by_loops(x, hidden, chosen, up, down), rtol=1e-5, atol=1e-4)


def test_a_row_outside_the_table_is_refused():
    with pytest.raises(RuntimeError, match="row 9 of a table of 9"):
        kernel.chosen_rows(torch.randn(1, 4), torch.randn(1, 1), torch.tensor([[9]]), None, torch.randn(9, 4))


@pytest.mark.parametrize("cls", [TopKGLU, TopKMLP])
def test_top_k_parts_use_it_in_inference_only_and_get_the_same(cls, monkeypatch):
    torch.manual_seed(0)
    part, calls = cls(24, 100, 17, gather_tokens=4), []
    run = kernel.chosen_rows
    monkeypatch.setattr(kernel, "chosen_rows", lambda *inputs: calls.append(1) or run(*inputs))
    x = torch.randn(1, 3, 24)
    trained = part(x)
    assert not calls
    trained.sum().backward()
    assert part.down.grad is not None
    with torch.no_grad():
        y = part(x)
    assert calls == [1]
    torch.testing.assert_close(y, part.double()(x.double()).float())
    assert calls == [1]


def test_equal_bits_for_every_number_of_threads():
    torch.manual_seed(0)
    x, hidden, chosen = torch.randn(1, 64), torch.randn(1, 300), torch.randperm(512)[:300][None]
    up, down = (torch.randn(512, 64) for _ in range(2))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(kernel.chosen_rows(x, hidden, chosen, up, down))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_flops_and_torch_s_rules():
    x, hidden, chosen = torch.randn(2, 8), torch.randn(2, 3), torch.randint(5, (2, 3))
    table = torch.randn(5, 8)
    with FlopCounterMode(display=False) as counter:
        kernel.chosen_rows(x, hidden, chosen, table, table)
        kernel.chosen_rows(x, hidden, chosen, None, table)
    assert counter.get_total_flops() == (4 + 2) * 2 * 3 * 8
    rules = ("test_schema", "test_faketensor")
    arguments = (x, hidden, chosen, table, table)
    library.opcheck(torch.ops.layersmith.chosen_rows.default, arguments, test_utils=rules)


def test_compiles_as_one_graph():
    part, x = TopKGLU(24, 100, 17).requires_grad_(False), torch.randn(1, 1, 24)
    torch._dynamo.reset()
    got = torch.compile(part, fullgraph=True, backend="aot_eager")(x)
    torch._dynamo.reset()
    torch.testing.assert_close(got, part(x))


@pytest.mark.parametrize("counts", [[1, 0, 2, 1, 5], [0, 9, 0, 0, 0], [3, 3, 3, 0, 0], [1, 1, 1, 1, 5]])
@pytest.mark.parametrize("d_in", [16, 37])
def test_grouped_linear_with_few_and_many_rows_of_an_expert(counts, d_in):
    torch.manual_seed(0)
    rows, weight = torch.randn(9, d_in), torch.randn(5, 7, d_in)
    owner = torch.arange(5).repeat_interleave(torch.tensor(counts))
    expected = torch.einsum("nd,nod->no", rows.double(), weight.double()[owner])
    got = grouped_linear(rows, weight, torch.tensor(counts))
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("width", [(5, 3), (37, 6), (64, 8), (8, 1)])
def test_grouped_linear_on_either_side_of_what_is_left_to_a_library(width):
    torch.manual_seed(0)
    counts = torch.tensor([33, 32, 1, 0, 7])
    rows, weight = torch.randn(73, width[0]), torch.randn(5, width[1], width[0])
    owner = torch.arange(5).repeat_interleave(counts)
    expected = torch.einsum("nd,nod->no", rows.double(), weight.double()[owner])
    torch.testing.assert_close(grouped_linear(rows, weight, counts).double(), expected, rtol=1e-5, atol=1e-4)


def test_a_row_is_multiplied_alike_alone_and_beside_others_of_its_expert():
    torch.manual_seed(0)
    rows, weight = torch.randn(7, 37), torch.randn(2, 6, 37)
    together = grouped_linear(rows, weight, torch.tensor([3, 4]))
    for row in range(7):
        alone = grouped_linear(rows[row : row + 1], weight, torch.tensor([1, 0] if row < 3 else [0, 1]))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-6, atol=1e-5)


def test_grouped_linear_refuses_counts_that_do_not_add_up():
    with pytest.raises(RuntimeError, match="the counts do not add up"):
        grouped_linear(torch.randn(3, 4), torch.randn(2, 5, 4), torch.tensor([1, 1]))
