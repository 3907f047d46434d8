"""Store the experts of a mixture in few bits, each channel with its own scale; router and everything else stay.

    W ~ code scale,   code in -m .. m,   m = 2^(bits - 1) - 1,   scale = max |row| / m

A dense feed-forward is taken for a mixture of one expert: how much worse it bears two bits is the paper's comparison.

Paper: "Mixture of Quantized Experts (MoQE): Complementary Effect of Low-bit Quantization and Robustness".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.quantized_moe import QuantizedMoE
from layersmith.ffn.shared.activations import ACTIVATIONS
from layersmith.ffn.topk_moe import TopKMoE
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView

BITS = (8, 4, 3, 2)
#: How far outputs may be off, relative to their norm, for a mixture to be the one that was recognised.
CLOSE = 1e-4


class MoQE(Method):
    name = "moqe"
    kinds = ("ffn",)
    papers = ("mixture-quantized-experts-moqe",)
    missing = "training through the rounding at two bits, and kernels that multiply packed experts"
    builds = ("quantized_moe",)
    default = False
    saves = ("bytes",)
    requires = "a mixture with a softmax router over experts without biases, or a feed-forward without biases"
    when_it_pays = "In a mixture of experts, whose experts are nearly all of its bytes and bear few bits."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        found = view.once("mixture", lambda: mixture(view))
        return None if found is not None else "it is no mixture of a known form, nor a feed-forward without biases"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"bits": bits} for bits in BITS]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        moe = view.once("mixture", lambda: mixture(view))
        return view.as_replacement(QuantizedMoE.from_moe(moe, settings["bits"]).eval())


def mixture(view: SublayerView) -> TopKMoE | None:
    """The sublayer as our `TopKMoE` with equal outputs, tried on one call; None when it is not one."""
    call = view.fit[0]
    dtypes = {p.dtype for p in view.model.parameters() if p.is_floating_point()}
    close = max([CLOSE, *(4 * torch.finfo(dtype).eps for dtype in dtypes)])  # what was seen may be of 16 bits
    with torch.no_grad():
        for moe in _readings(view):
            y = moe(call.real(call.input))
            if (y - call.real(call.output)).norm() <= close * call.real(call.output).norm():
                return moe
    return None


def _readings(view: SublayerView) -> Iterator[TopKMoE]:
    """What it may be: a dense feed-forward, or experts in parameters of three dimensions beside their router."""
    if view.ffn is not None:
        yield from _one_expert(view.ffn.operator)
        return
    sublayer: Any = view.original
    if isinstance(sublayer, TopKMoE):
        yield sublayer
        return
    router, experts = getattr(sublayer, "gate", None), getattr(sublayer, "experts", None)
    scores, k = getattr(router, "weight", None), getattr(router, "top_k", None)
    both, down = getattr(experts, "gate_up_proj", None), getattr(experts, "down_proj", None)
    act = _name_of(getattr(experts, "act_fn", None))
    if not (isinstance(scores, Tensor) and isinstance(both, Tensor) and isinstance(down, Tensor)):
        return
    if act is None or not isinstance(k, int) or both.dim() != 3:
        return
    gate, up = both.chunk(2, dim=1)
    if down.shape != up.mT.shape or scores.shape != up[:, 0].shape:  # (E, 2 d_expert, D) beside (E, D, d_expert)
        return
    for renormalize in (True, False):
        yield _filled(scores, {"up": up, "gate": gate, "down": down}, k=k, act=act, renormalize=renormalize)


def _one_expert(dense: Any) -> Iterator[TopKMoE]:
    names = ("up", "gate", "down") if dense.name == "glu" else ("up", "down")
    linears = {name: getattr(dense, name) for name in names}
    if any(linear.bias is not None for linear in linears.values()):
        return
    weights = {name: linear.weight[None] for name, linear in linears.items()}
    router = weights["up"].new_zeros(1, weights["up"].shape[-1])
    yield _filled(router, weights, k=1, act=dense.spec()["act"], renormalize=True)


def _filled(router: Tensor, weights: dict[str, Tensor], k: int, act: str, renormalize: bool) -> TopKMoE:
    experts, d_expert, d_model = weights["up"].shape
    gated = "gate" in weights
    moe = TopKMoE(d_model, d_expert, experts, k, act=act, gated=gated, renormalize=renormalize).to(router.device)
    with torch.no_grad():
        moe.router.copy_(router)
        for name, weight in weights.items():
            getattr(moe.experts, name).copy_(weight)
    return moe.eval()


def _name_of(act: Any) -> str | None:
    """The name of an activation of transformers, found by what it gives."""
    if not callable(act):
        return None
    x = torch.linspace(-4, 4, 33, device="cpu")
    with torch.no_grad():
        return next((name for name, f in ACTIVATIONS.items() if torch.allclose(act(x), f(x), atol=1e-6)), None)
