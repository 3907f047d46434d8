"""Recognises a model's own feed-forward or attention as one of ours, with equal outputs.

    found = as_ffn(model, site)        # Recognised(operator=GLU(...), parts={"gate": path, "up": path, "down": path})

so that methods work on a handful of known operators instead of on every architecture. Which matrix plays which part
is read off the order in which a probe run uses them; what cannot be read (the activation, which half is the gate,
how heads are interleaved) is tried. Nothing is taken on trust: an operator is returned only when its outputs equal
the original's to 1e-5 in float32. One thing a small probe cannot show is a window of 60 tokens or more; it is taken
from the config.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy.calls import convention, wrap
from layersmith.anatomy.observe import LONGEST, Observed, observe
from layersmith.anatomy.readings import NotRecognised, attentions, feed_forwards, window_of
from layersmith.anatomy.site import Site

TOLERANCE = 1e-5
#: For attention that got its rotary tables in half precision. Wrong readings are off by tens of percent.
HALF_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Recognised:
    """A sublayer as our operator.

    operator  in the model's dtype and on its device; the weights are copies
    parts     which module path plays which part: "gate", "up", "down"; "q", "k", "v", "o", "q_norm", "k_norm".
              A matrix that plays several parts is listed once, as "gate_up" or "qkv".
    """

    operator: Any
    parts: dict[str, str]


def as_ffn(model: nn.Module, site: Site) -> Recognised | None:
    """The site as our `GLU` or `MLP`, or None when it is neither (`recognise` says why)."""
    try:
        return recognise(model, site) if site.kind == "ffn" else None
    except NotRecognised:
        return None


def as_attention(model: nn.Module, site: Site) -> Recognised | None:
    """The site as our `SoftmaxAttention`, or None when it is not one (`recognise` says why)."""
    try:
        return recognise(model, site) if site.kind == "mixer" else None
    except NotRecognised:
        return None


@torch.no_grad()
def recognise(model: nn.Module, site: Site) -> Recognised:
    """The site as an operator of ours with equal outputs. Raises NotRecognised with the reason."""
    if site.kind not in ("ffn", "mixer") or site.cross:
        raise NotRecognised(f"{site.name} is neither a feed-forward nor a self-attention.")
    first = model.get_submodule(site.modules[0])
    if site.kind == "ffn":
        seen, call = observe(model, site), {}
        readings = feed_forwards(site, seen)
    else:
        window = window_of(first, site)
        tokens = None if window is None or window + 4 > LONGEST else window + 4
        if window is not None and tokens is None and not site.causal:
            raise NotRecognised(f"{site.name} has a window of {window} both ways, too wide for a small probe to show.")
        seen, call = observe(model, site, tokens), convention(first, "attention", site.layer, 0)
        readings = attentions(model, site, seen, window)
    for operator, parts in readings:
        if _equal(wrap(operator, call)(*seen.args, **seen.kwargs), seen):
            weight = next(first.parameters())
            return Recognised(operator.to(weight.device, weight.dtype), parts)
    kind = "a plain or gated two-layer feed-forward" if site.kind == "ffn" else "softmax attention"
    raise NotRecognised(f"{site.name} has matrices like {kind}, but computes something else with them.")


def _equal(ours: Tensor, seen: Observed) -> bool:
    """Whether each sample (each token, where tokens are not in samples) comes out the same."""
    if ours.shape != seen.output.shape:
        return False
    wrong, size = (ours - seen.output).flatten(1).norm(dim=1), seen.output.flatten(1).norm(dim=1)
    return bool((wrong <= (HALF_TOLERANCE if seen.half_tables else TOLERANCE) * size).all())
