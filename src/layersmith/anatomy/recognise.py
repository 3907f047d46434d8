"""Recognises a model's own feed-forward or attention as one of ours, with equal outputs.

    found = as_ffn(model, site)        # Recognised(operator=GLU(...), parts={"gate": path, "up": path, "down": path})

so that methods work on a handful of known operators instead of on every architecture. Which matrix plays which part
is read off the order in which a probe run uses them; what cannot be read (the activation, which half is the gate,
how heads are interleaved) is tried. Nothing is taken on trust: an operator is returned only when its outputs equal
the original's to 1e-5 in float32. One thing a small probe cannot show is a window of 60 tokens or more; it is taken
from the config.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy.calls import convention, wrap
from layersmith.anatomy.observe import LONGEST, Matrix, Observed, observe
from layersmith.anatomy.site import Site
from layersmith.contract import Operator
from layersmith.errors import UserError
from layersmith.ffn.activations import ACTIVATIONS
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention

TOLERANCE = 1e-5
#: For attention that got its rotary tables in half precision. Wrong readings are off by tens of percent.
HALF_TOLERANCE = 2e-2
_HEAD_WIDTHS = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim")


class NotRecognised(UserError):
    """The sublayer is none of ours; the message says what was seen."""


@dataclass(frozen=True)
class Recognised:
    """A sublayer as our operator.

    operator  in the model's dtype and on its device; the weights are copies
    parts     which module path plays which part: "gate", "up", "down"; "q", "k", "v", "o", "q_norm", "k_norm".
              A matrix that plays several parts is listed once, as "gate_up" or "qkv".
    """

    operator: Any
    parts: dict[str, str]


#: An operator that may be the sublayer, still to be checked, and the parts it was made from.
_Reading = tuple[Operator, dict[str, str]]


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
        readings = _feed_forwards(site, seen)
    else:
        window = _window(first, site)
        tokens = None if window is None or window + 4 > LONGEST else window + 4
        if window is not None and tokens is None and not site.causal:
            raise NotRecognised(f"{site.name} has a window of {window} both ways, too wide for a small probe to show.")
        seen, call = observe(model, site, tokens), convention(first, "attention", site.layer, 0)
        readings = _attentions(model, site, seen, window)
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


def _feed_forwards(site: Site, seen: Observed) -> Iterator[_Reading]:
    """Every reading of the matrices as an MLP or a GLU."""
    paths, matrices = list(seen.matrices), list(seen.matrices.values())
    if len(paths) == 2:
        up, down = matrices
        yield from _with_every_activation(MLP, {"up": up, "down": down}, {"up": paths[0], "down": paths[1]})
        if up.rows == 2 * down.columns:
            first, second = up.split([down.columns] * 2)
            parts = {"gate_up": paths[0], "down": paths[1]}
            yield from _with_every_activation(GLU, {"gate": first, "up": second, "down": down}, parts)
            yield from _with_every_activation(GLU, {"gate": second, "up": first, "down": down}, parts)
    elif len(paths) == 3:
        for one, two in ((0, 1), (1, 0)):
            parts = {"gate": paths[one], "up": paths[two], "down": paths[2]}
            yield from _with_every_activation(GLU, {part: seen.matrices[p] for part, p in parts.items()}, parts)
    else:
        raise NotRecognised(f"{site.name} uses {len(paths)} matrices; an MLP has 2 and a GLU 2 or 3.")


def _with_every_activation(
    kind: type[MLP] | type[GLU], matrices: dict[str, Matrix], parts: dict[str, str]
) -> Iterator[_Reading]:
    up, down = matrices["up"], matrices["down"]
    if down.columns != up.rows or down.rows != up.columns or matrices.get("gate", up).weight.shape != up.weight.shape:
        return
    sizes = {"d_model": up.columns, "d_hidden": up.rows, "bias": _any_bias(matrices.values())}
    for act in ACTIVATIONS:
        yield _filled(kind, {**sizes, "act": act}, matrices), parts


def _attentions(model: nn.Module, site: Site, seen: Observed, window: int | None) -> Iterator[_Reading]:
    """Every reading of the matrices as softmax attention."""
    paths, matrices = list(seen.matrices), list(seen.matrices.values())
    if len(paths) not in (2, 4):
        raise NotRecognised(f"{site.name} uses {len(paths)} matrices as modules; attention has 4 (q, k, v, o) or 2.")
    if any(True for top in site.modules for _ in model.get_submodule(top).buffers()):
        raise NotRecognised(f"{site.name} keeps tables of its own (masks or positions).")
    owner = model.get_submodule(paths[0].rpartition(".")[0])
    o, head_dim = matrices[-1], _head_dim(owner, matrices[-1].columns, site)
    norms = _head_norms(seen, head_dim)
    others = {"o": paths[-1], **dict(zip(("q_norm", "k_norm"), norms, strict=False))}
    for qkv, names in _projections(paths, matrices, head_dim):
        q, k, v = qkv
        if q.rows != o.columns or k.rows != v.rows or any(m.columns != o.rows or m.rows % head_dim for m in qkv):
            continue
        config = {
            "d_model": o.rows,
            "n_heads": o.columns // head_dim,
            "n_kv_heads": k.rows // head_dim,
            "head_dim": head_dim,
            "causal": site.causal,
            "window": window,
            "bias": _any_bias(qkv),
            "out_bias": o.bias is not None,
            "scale": _scale(owner, head_dim),
        }
        for rope in _ropes(owner, seen, head_dim):
            for gains in _gains(norms):
                operator = _filled(
                    SoftmaxAttention,
                    {**config, **rope, **_norm_config(norms)},
                    {**dict(zip("qkv", qkv, strict=True)), "o": o},
                )
                for norm, gain in zip((operator.q_norm, operator.k_norm), gains, strict=False):
                    norm.weight.copy_(gain)
                yield operator, {**names, **others}


def _projections(
    paths: list[str], matrices: list[Matrix], head_dim: int
) -> Iterator[tuple[list[Matrix], dict[str, str]]]:
    """(q, k, v) and where they are: three matrices, or one whose rows are split or dealt out by head."""
    if len(paths) == 4:
        for order in ((0, 1, 2), (2, 0, 1)):  # some compute k, v, q
            yield [matrices[i] for i in order], dict(zip("qkv", (paths[i] for i in order), strict=True))
        return
    fused, inner = matrices[0], matrices[1].columns
    rest = fused.rows - inner
    if rest > 0 and rest % 2 == 0:
        yield fused.split([inner, rest // 2, rest // 2]), {"qkv": paths[0]}
    if rest == 2 * inner:
        yield fused.deal(3, head_dim), {"qkv": paths[0]}


def _head_dim(owner: nn.Module, inner: int, site: Site) -> int:
    width = next((w for name in _HEAD_WIDTHS if isinstance(w := getattr(owner, name, None), int)), None)
    if width is None or inner % width:
        raise NotRecognised(f"{site.name} does not say how wide its heads are.")
    return width


def _scale(owner: nn.Module, head_dim: int) -> float | None:
    """The factor on the scores, None for the usual head_dim^-0.5."""
    scale = getattr(owner, "scaling", None)
    return None if scale is None or abs(scale * head_dim**0.5 - 1) < 1e-12 else float(scale)


def _window(attention: Any, site: Site) -> int | None:
    """Tokens a token sees: as the module says, else as the config says for this layer; None for all."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    config = getattr(attention, "config", None)
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or kinds[site.layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if slides else None


def _head_norms(seen: Observed, head_dim: int) -> dict[str, nn.Module]:
    """The norms of queries and keys, in this order, by path; nothing when there are none."""
    widths = {path: [tuple(p.shape) for p in module.parameters()] for path, module in seen.modules.items()}
    found = {path: seen.modules[path] for path, shapes in widths.items() if shapes == [(head_dim,)]}
    return found if len(found) == 2 else {}


def _norm_config(norms: dict[str, nn.Module]) -> dict[str, Any]:
    if not norms:
        return {}
    norm = next(iter(norms.values()))
    return {"qk_norm": True, "qk_norm_eps": getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-6))}


def _gains(norms: dict[str, Any]) -> list[list[Tensor]]:
    """What the norms may multiply by: their weights, or one plus them (Gemma's way)."""
    weights = [norm.weight.detach().float() for norm in norms.values()]
    return [weights, [1 + w for w in weights]] if norms else [[]]


def _ropes(owner: nn.Module, seen: Observed, head_dim: int) -> list[dict[str, Any]]:
    """The rotations the config speaks of, when the sublayer is handed a table of angles; and none at all."""
    table = seen.kwargs.get("position_embeddings")
    if table is None:
        return [{}]
    settings = getattr(getattr(owner, "config", None), "rope_parameters", None) or {}
    by_layer_type = [s for s in settings.values() if isinstance(s, dict)]  # Gemma has one entry for each
    plain = [s for s in by_layer_type or [settings] if s.get("rope_type", "default") == "default"]
    fraction = table[0].shape[-1] / head_dim
    return [
        *(
            {"rope_theta": float(theta), "rope_fraction": fraction, "rope_interleaved": interleaved}
            for theta in dict.fromkeys(s["rope_theta"] for s in plain if "rope_theta" in s)
            for interleaved in (False, True)
        ),
        {},
    ]


def _any_bias(matrices: Iterable[Matrix]) -> bool:
    return any(m.bias is not None for m in matrices)


def _filled(kind: type[Operator], config: dict[str, Any], matrices: dict[str, Matrix]) -> Any:
    """A new operator holding these matrices (float32), made without the cost of initialising it."""
    device = next(iter(matrices.values())).weight.device
    with torch.device("meta"):
        operator = kind(**config)
    operator = operator.float().to_empty(device=device).eval()
    for name, matrix in matrices.items():
        linear: Any = operator.get_submodule(name)
        linear.weight.copy_(matrix.weight)
        if linear.bias is not None:
            linear.bias.copy_(torch.zeros_like(linear.bias) if matrix.bias is None else matrix.bias)
    return operator
