"""Put whole layers in the place of a model's own, where all parts inside are ours: one token then takes one call.

    x + attention(norm(x)), then that plus ffn(ffn_norm(...))        `rms_norm`, `fused_attention`, `fused_glu`

which is the block `series`. Its parts are the very modules that stood in the model's layer, so no weight is copied and
none changes. What is gained is the code around them: where the kernels are compiled, `series` takes a token by one
call a layer (`kernels/step`), and a layer of transformers makes three hundred calls in Python.

Paper: none. When it pays: while a small model generates text on a CPU, with `one_row` maps or maps in 8 or 4 bits;
only the clock can tell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.anatomy import Anatomy, Site, replacement_for
from layersmith.anatomy.calls import AttentionCall, wrap
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.running import evaluating
from layersmith.block.series import Series
from layersmith.contract import Operator
from layersmith.errors import UserError
from layersmith.ffn.fused_glu import FusedGLU
from layersmith.mixer.fused_attention import FusedAttention
from layersmith.norm.rms_norm import RMSNorm
from layersmith.refitting.prove.folds.fold import HALF_TOLERANCE, TOLERANCE, Fold, proved

#: Role of a site in a block -> the name of that part in `series` and what has to stand there.
PARTS: dict[str, tuple[str, type[Operator]]] = {
    "attn_norm": ("norm", RMSNorm),
    "attn": ("mixer", FusedAttention),
    "ffn_norm": ("ffn_norm", RMSNorm),
    "ffn": ("ffn", FusedGLU),
}


def fold(model: nn.Module, anatomy: Anatomy) -> Fold:
    """The model with `series` blocks for layers that are ours part by part, as a proved `Fold`; it is not changed.

    Raises UserError when there are none, or the proof fails.
    """
    return proved(model, lambda model: _fold(model, anatomy))


def _fold(model: nn.Module, anatomy: Anatomy) -> Fold:
    blocks = {site: _block(model, anatomy, site) for site in anatomy.of_kind("block")}
    built = {site: block for site, block in blocks.items() if block is not None}
    if not built:
        raise UserError(
            "No layer consists of 'rms_norm', 'fused_attention', 'rms_norm' and 'fused_glu' alone. This fold is for "
            "models whose layers are that after the methods 'fused_norm', 'fused_attention' and 'fused_glu'."
        )
    edits: Replacement = []
    notes = []
    calls = _calls(model, [site.modules[0] for site in built])
    for site, block in built.items():
        (edit, _), *_ = replacement = replacement_for(model, site, block)
        if not _equal(replacement, *calls[edit.path]):
            notes.append(f"{site.name} stays: it does something else between its parts than adding what they write.")
            continue
        edits += [*replacement, *_edits_inside(edit, block)]
    if not edits:
        raise UserError(f"No layer can be folded. {' '.join(notes)}")
    return Fold({}, edits, notes=tuple(notes))


def _block(model: nn.Module, anatomy: Anatomy, site: Site) -> Series | None:
    """The layer's own parts in a `series` block; None where one of them is missing or there are others."""
    inside = {part.role: part for part in anatomy.in_block(site.name)}
    if set(inside) != set(PARTS) or site.locked or any(len(part.modules) > 1 for part in inside.values()):
        return None
    layer = model.get_submodule(site.modules[0])
    if isinstance(layer, AttentionCall):  # a block of ours already
        return None
    parts: dict[str, Operator] = {}
    for role, (name, kind) in PARTS.items():
        module: Any = model.get_submodule(inside[role].modules[0])
        part = module.operator if isinstance(module, AttentionCall) else module
        if type(part) is not kind:
            return None
        parts[name] = part
    with torch.device("meta"):
        specs = {name: part.spec() for name, part in parts.items()}
        block = Series(site.d_model, specs["mixer"], specs["ffn"], specs["norm"], specs["ffn_norm"])
    for name, part in parts.items():
        setattr(block, name, part)
    return block.train(layer.training)


def _edits_inside(outer: Edit, block: Series) -> Replacement:
    """The edits of what stands inside the block and is not what its spec says: linear maps in another format."""
    with torch.device("meta"):
        plain = dict(catalogue.build(outer.spec).named_modules())
    found: Replacement = []
    for name, module in block.named_modules():
        path, covered = f"{outer.inside}.{name}", tuple(f"{edit.path}." for edit, _ in found)
        if not path.startswith(covered) and type(module) is not type(plain.get(name)):
            assert isinstance(module, Operator)  # nothing else is put into a part by a method
            found.append((Edit(path, module.spec(), {}), module))
    return found


@torch.no_grad()
def _calls(model: nn.Module, paths: list[str]) -> dict[str, tuple[tuple[Any, ...], dict[str, Any], Tensor]]:
    """What each of these modules is given on a small input, and the tensor that it returns."""
    seen: dict[str, tuple[tuple[Any, ...], dict[str, Any], Tensor]] = {}

    def keep(path: str) -> Any:
        def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            seen[path] = args, kwargs, _first(output)

        return called

    hooks = [model.get_submodule(path).register_forward_hook(keep(path), with_kwargs=True) for path in paths]
    try:
        with evaluating(model):
            model(**example_inputs(model))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def _equal(replacement: Replacement, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Tensor) -> bool:
    """Whether the block makes of that call what the layer made of it."""
    (edit, block), *_ = replacement
    placed = wrap(block, edit.call)
    with evaluating(placed):
        found = _first(placed(*args, **kwargs))
    half = any(p.is_floating_point() and p.dtype.itemsize < 4 for p in block.parameters())
    wrong, size = (found - expected).abs().max(), expected.abs().max()
    return bool(wrong <= (HALF_TOLERANCE if half else TOLERANCE) * size)


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple | list) else output
    return found
