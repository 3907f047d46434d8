"""Recognises a model's own feed-forward or attention as one of ours, with equal outputs.

    found = as_ffn(model, site)        # Recognised(operator=GLU(...), parts={"gate": path, "up": path, "down": path})

so that methods work on a handful of known operators instead of on every architecture. Which matrix plays which part
is read off the order in which a probe run uses them; what cannot be read (the activation, which half is the gate,
how heads are interleaved) is tried. Nothing is taken on trust: an operator is returned only when its outputs equal
the original's to 1e-5 in float32, for attention on strong scores as well. One thing a small probe cannot show is a
window of 60 tokens or more; it is taken from the config.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from layersmith.anatomy.calls import convention, takes_more, wrap
from layersmith.anatomy.observe import LONGEST, Observed, observe
from layersmith.anatomy.readings import NotRecognised, attentions, feed_forwards, window_of
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.site import Site
from layersmith.mixer.softmax import SoftmaxAttention

TOLERANCE = 1e-5
#: For attention that got its rotary tables in half precision. Wrong readings are off by tens of percent.
HALF_TOLERANCE = 2e-2
#: The same for strong scores, in whose exponentials rounding grows. Capping them at 50 is off by more than the output.
STRONG_TOLERANCE, STRONG_HALF_TOLERANCE = 3e-4, 0.15
#: The bound |q| |k| / sqrt(d) on scores in the strong probe; the scores themselves reach about a third of it.
STRONG_SCORE = 80.0


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


def recognise(model: nn.Module, site: Site) -> Recognised:
    """The site as an operator of ours with equal outputs. Raises NotRecognised with the reason."""
    if site.kind not in ("ffn", "mixer") or site.cross:
        raise NotRecognised(f"{site.name} is neither a feed-forward nor a self-attention.")
    with evaluating(model):
        first = model.get_submodule(site.modules[0])
        if site.kind == "ffn":
            seen = observe(model, site)
            call = convention(first, "attention", site.layer, 0) if takes_more(first) else {}
            readings = feed_forwards(site, seen)
        else:
            window = window_of(first, site)
            if window is not None and window + 4 > LONGEST and not site.causal:
                raise NotRecognised(
                    f"{site.name} has a window of {window} both ways, too wide for a small probe to show."
                )
            seen, call = observe(model, site), convention(first, "attention", site.layer, 0)
            readings = attentions(model, site, seen, window)
        for operator, parts in readings:
            if _equal(operator, call, seen):
                if isinstance(operator, SoftmaxAttention) and not _equal(operator, call, seen, strongly=True):
                    raise NotRecognised(
                        f"{site.name} is like softmax attention on weak scores and not on strong ones: it caps or "
                        f"otherwise bends them (Gemma 2's soft-capping), which none of layersmith's attentions does."
                    )
                weight = next(first.parameters())
                return Recognised(operator.to(weight.device, weight.dtype), parts)
    kind = "a plain or gated two-layer feed-forward" if site.kind == "ffn" else "softmax attention"
    raise NotRecognised(f"{site.name} has matrices like {kind}, but computes something else with them.")


def _equal(operator: Any, call: dict[str, Any], seen: Observed, strongly: bool = False) -> bool:
    """Whether each sample (each token, where tokens are not in samples) comes out the same.

    strongly  on hidden states so large that scores spread as in a trained model, where a bend in them shows
    """
    factor = _strength(operator, seen) if strongly else 1.0
    theirs = seen.run(factor) if strongly else seen.output
    args, kwargs = seen.call(factor)
    ours = wrap(operator, call)(*args, **kwargs)
    if ours.shape != theirs.shape:
        return False
    wrong, size = (ours - theirs).flatten(1).norm(dim=1), theirs.flatten(1).norm(dim=1)
    exact, half = (STRONG_TOLERANCE, STRONG_HALF_TOLERANCE) if strongly else (TOLERANCE, HALF_TOLERANCE)
    return bool((wrong <= (half if seen.half_tables else exact) * size).all())


def _strength(attention: SoftmaxAttention, seen: Observed) -> float:
    """The factor on the hidden states that takes the largest possible score to about `STRONG_SCORE`."""
    width = attention.o.in_features // attention.spec()["n_heads"]
    q, k = (
        float(part(seen.hidden).unflatten(-1, (-1, width)).norm(dim=-1).max()) for part in (attention.q, attention.k)
    )
    scale = attention.spec()["scale"] or width**-0.5
    return max(1.0, (STRONG_SCORE / max(q * k * scale, 1e-12)) ** 0.5)
