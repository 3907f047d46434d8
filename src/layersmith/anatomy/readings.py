"""How the matrices of an observed sublayer could be read: as which of our operators, with which settings.

Every reading is a candidate with the weights in place; `recognise` keeps the first one that computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy.notes import holds_experts
from layersmith.anatomy.observe import Matrix, Observed, tables_of
from layersmith.anatomy.site import Site
from layersmith.contract import Operator
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import ACTIVATIONS
from layersmith.mixer.softmax import SoftmaxAttention

_HEAD_WIDTHS = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim")

#: A candidate, and which module path each of its parts was read from.
Reading = tuple[Operator, dict[str, str]]


class NotRecognised(UserError):
    """The sublayer is none of ours; the message says what was seen."""


def feed_forwards(site: Site, seen: Observed) -> Iterator[Reading]:
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
        experts = any(holds_experts(module) for module in seen.modules.values())
        why = " Its experts are kept in parameters of three dimensions and chosen by a router." if experts else ""
        raise NotRecognised(f"{site.name} uses {len(paths)} matrices; an MLP has 2 and a GLU 2 or 3.{why}")


def _with_every_activation(
    kind: type[MLP] | type[GLU], matrices: dict[str, Matrix], parts: dict[str, str]
) -> Iterator[Reading]:
    up, down = matrices["up"], matrices["down"]
    if down.columns != up.rows or down.rows != up.columns or matrices.get("gate", up).weight.shape != up.weight.shape:
        return
    sizes: dict[str, Any] = {"d_model": up.columns, "d_hidden": up.rows, "bias": _any_bias(matrices.values())}
    weights = _filled(kind, sizes, matrices).state_dict()
    for act in ACTIVATIONS:
        with torch.device("meta"):
            operator = kind(**sizes, act=act)
        operator.load_state_dict(weights, assign=True)
        yield operator.eval(), parts


def attentions(model: nn.Module, site: Site, seen: Observed, window: int | None) -> Iterator[Reading]:
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


def window_of(attention: Any, site: Site) -> int | None:
    """Tokens a token sees: as the module says, else as the config says for this layer; None for all."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    config = getattr(attention, "config", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[site.layer] == "chunked_attention":
        raise NotRecognised(f"{site.name} attends within chunks of the text, which softmax attention here does not.")
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
    tables = tables_of(seen.kwargs)
    if not tables:
        return [{}]
    settings = getattr(getattr(owner, "config", None), "rope_parameters", None) or {}
    by_layer_type = [s for s in settings.values() if isinstance(s, dict)]  # Gemma has one entry for each
    plain = [s for s in by_layer_type or [settings] if s.get("rope_type", "default") == "default"]
    # A complex number of a single table turns two channels; (cos, sin) has an entry for each.
    fraction = tables[0].shape[-1] * (2 if tables[0].is_complex() else 1) / head_dim
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
