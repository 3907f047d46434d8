"""The fused GLU against the GLU."""

import pytest
import torch

from layersmith.ffn.fused_glu import FusedGLU
from layersmith.ffn.glu import GLU


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
