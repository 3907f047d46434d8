"""The fused GLU against the GLU, and a single row's product shared out among threads against `nn.Linear`."""

import pytest
import torch

from layersmith.ffn.fused_glu import FusedGLU
from layersmith.ffn.glu import GLU
from layersmith.kernels import one_row
from layersmith.kernels.one_row import OneRowLinear


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("act", "bias"), [("silu", False), ("gelu", True), ("identity", True)])
@pytest.mark.oracle("fused_glu")
def test_equals_glu(act, bias, shared):
    torch.manual_seed(0)
    glu, fused = GLU(8, 12, act, bias).double(), FusedGLU(8, 12, act, bias, one_row=shared).double()
    state = glu.state_dict()
    for kind in ("weight", "bias") if bias else ("weight",):
        state[f"gate_up.{kind}"] = torch.cat([state.pop(f"{name}.{kind}") for name in ("gate", "up")])
    fused.load_state_dict(state)
    for shape in ((2, 5, 8), (1, 1, 8), (8,), (0, 8)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(fused(x), glu(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("bias", [False, True])
def test_any_number_of_threads_gives_the_product_and_its_gradients(threads, bias, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    plain, shared = torch.nn.Linear(6, 12, bias=bias).double(), OneRowLinear(6, 12, bias=bias).double()
    shared.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, 6, dtype=torch.float64)
    want, got = plain(x), shared(x)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    want.square().sum().backward()
    got.square().sum().backward()
    torch.testing.assert_close(shared.weight.grad, plain.weight.grad, atol=1e-12, rtol=0)


def test_only_a_single_row_in_full_precision_is_shared_out(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    weight = torch.zeros(12, 6)
    assert one_row._groups(torch.zeros(1, 1, 6), weight) == 4
    assert one_row._groups(torch.zeros(1, 1, 6), torch.zeros(10, 6)) == 2, "groups are equally large"
    assert one_row._groups(torch.zeros(1, 2, 6), weight) == 1
    assert one_row._groups(torch.zeros(1, 1, 6, dtype=torch.bfloat16), weight) == 1
