"""The kernel for one matrix under several bit masks, against loops, and MGLU's use of it."""

import pytest
import torch
from torch import library
from torch.utils.flop_counter import FlopCounterMode

from layersmith.ffn.mglu import MGLU, pack_bits
from layersmith.kernels import masked as kernel
from layersmith.kernels import native


@pytest.fixture(autouse=True)
def _built():
    assert native.loaded(), "these tests need a C++ compiler and ninja"


def data(tokens, rows, width, n_masks):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, width, generator=generator) for n in (tokens, rows))
    return x, weight, torch.rand(n_masks, rows, width, generator=generator) > 0.4


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("n_masks", [1, 2, 5])
@pytest.mark.parametrize("width", [1, 8, 37, 64])
def test_products_by_loops(width, n_masks, tokens):
    x, weight, mask = data(tokens, 6, width, n_masks)
    total, part = kernel.masked_products(x, weight, pack_bits(mask))
    for n, token in enumerate(x.tolist()):
        for j, row in enumerate(weight.tolist()):
            assert float(total[n, j]) == pytest.approx(sum(w * v for w, v in zip(row, token, strict=True)), abs=1e-4)
            for i in range(n_masks):
                kept = mask[i, j].tolist()
                wanted = sum(w * v for w, v, m in zip(row, token, kept, strict=True) if m)
                assert float(part[n, i, j]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("n_masks", [1, 4])
def test_mglu_uses_it_for_few_tokens_in_inference_and_gets_the_same(n_masks, monkeypatch):
    torch.manual_seed(0)
    part, calls = MGLU(37, 50, n_masks).pack(), []
    run = kernel.masked_products
    monkeypatch.setattr(kernel, "masked_products", lambda *inputs: calls.append(1) or run(*inputs))
    few, many = torch.randn(2, 3, 37), torch.randn(2, kernel.FEW, 37)
    part(few)
    assert not calls, "its weights want a gradient"
    part.requires_grad_(False)
    part(many)
    assert not calls, "matrix products serve many tokens better"
    y = part(few)
    assert calls == [1]
    torch.testing.assert_close(part(few[0, 0]), y[0, 0])
    calls.clear()
    y = part(few)
    torch.testing.assert_close(y, part.double()(few.double()).float())
    assert calls == [1], "other dtypes are the reference's"


def test_equal_bits_for_every_number_of_threads():
    x, weight, mask = data(1, 700, 96, 3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(kernel.masked_products(x, weight, pack_bits(mask)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_flops_and_torch_s_rules():
    x, weight, mask = data(2, 5, 16, 3)
    masks = pack_bits(mask)
    with FlopCounterMode(display=False) as counter:
        kernel.masked_products(x, weight, masks)
    assert counter.get_total_flops() == 2 * 2 * 5 * 16 * 4
    rules = ("test_schema", "test_faketensor")
    library.opcheck(torch.ops.layersmith.masked_products.default, (x, weight, masks), test_utils=rules)


def test_masks_of_another_shape_are_refused():
    x, weight, mask = data(1, 5, 16, 1)
    with pytest.raises(RuntimeError, match="shapes differ"):
        kernel.masked_products(x, weight, pack_bits(mask)[:, :4])


def test_compiles_as_one_graph():
    part, x = MGLU(24, 100, 2).pack().requires_grad_(False), torch.randn(1, 1, 24)
    torch._dynamo.reset()
    got = torch.compile(part, fullgraph=True, backend="aot_eager")(x)
    torch._dynamo.reset()
    torch.testing.assert_close(got, part(x))
