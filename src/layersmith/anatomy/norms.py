"""Recognises a model's own norm as our `RMSNorm`, with equal outputs, from its weights alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.norm.rms_norm import RMSNorm

TOLERANCE = 1e-5
#: The sizes of the tokens it is tried on, in units of the square root of eps and around one.
_SMALL, _SIZES = (0.1, 1.0, 10.0), (1.0, 100.0)
#: What implementations call eps: torch, transformers' Llama and T5.
_EPS = ("eps", "variance_epsilon")


@torch.no_grad()
def as_rms_norm(norm: Any, d_model: int) -> RMSNorm | None:
    """The norm as an `RMSNorm` in float32, or None when it computes something else or keeps other parameters.

    norm  a module over the last of its input's dimensions, of width d_model
    """
    own = dict(norm.named_parameters())
    eps = next((found for name in _EPS if isinstance(found := getattr(norm, name, None), float)), None)
    plain = own.keys() <= {"weight", "bias"} and "weight" in own and all(p.shape == (d_model,) for p in own.values())
    if not plain or eps is None:
        return None
    theirs: nn.Module = copy.deepcopy(norm).float().eval()
    x = _tokens(d_model, eps).to(own["weight"].device)
    expected = theirs(x)
    if not isinstance(expected, Tensor) or expected.shape != x.shape:
        return None
    for offset in (False, True):  # Gemma stores the weight less one
        ours = RMSNorm(d_model, eps=eps, bias="bias" in own, offset=offset).to(x.device).eval()
        ours.load_state_dict({name: p.float() for name, p in own.items()})
        if bool(((ours(x) - expected).norm(dim=-1) <= TOLERANCE * expected.norm(dim=-1)).all()):
            return ours
    return None


def _tokens(d_model: int, eps: float) -> Tensor:
    """(sizes, tokens, d_model): tokens so small that eps matters, and others; none of them centred."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.tensor([*(size * eps**0.5 for size in _SMALL), *_SIZES], device="cpu")
    return sizes[:, None, None] * (0.5 + torch.randn(len(sizes), 4, d_model, generator=draw, device="cpu"))
