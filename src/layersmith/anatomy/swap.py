"""Puts modules at sites of a model, for a while or as edits that can be saved.

    with swap(model, {"layers.3.ffn": module, "layers.4.attn": other}):
        ...                                # the model runs with them
    # and is as it was, whatever happened inside

`replacement_for(model, site, operator)` gives the same change as edits, which `edit.apply` puts in place and
`checkpoint` saves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from layersmith import catalogue
from layersmith.anatomy import edit as edits
from layersmith.anatomy.calls import MixerCall, convention, takes_more
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.anatomy.hold import holding, sites_held
from layersmith.anatomy.running import check_module
from layersmith.anatomy.site import Anatomy, Site
from layersmith.anatomy.sites import find_sites
from layersmith.contract import Block, Mixer, Operator
from layersmith.errors import UserError
from layersmith.kinds import check_kinds, shown


@contextmanager
def swap(
    model: nn.Module, modules: Mapping[str | Site, nn.Module], anatomy: Anatomy | None = None
) -> Iterator[nn.Module]:
    """The model with other modules at some of its sites, until the context ends.

    modules  site, its name, or a pattern ("layers.*.ffn") -> what to put there; the first site of a pattern gets the
             module itself, every other one a copy. An `Operator` is adapted to the way the site is called. Any
             other module is put there as it is and has to be called like the original: a copy of the original, say.
    anatomy  of this model; found here when not given, or that of the swap around this one

    A site that one forward pass runs several times (ALBERT) gets the module in all of its runs. Swaps of one model may
    be nested; they end in the reverse of their order and in the thread that began them. Raises UserError for unknown
    sites, for what is no module, operators that do not fit, sites inside one another, and a model that another thread
    has swapped. A swap that ends before one inside it puts everything back and raises UserError.
    """
    check_module(model)
    check_kinds(swap, locals(), but=("modules",))
    anatomy = anatomy or sites_held(model) or find_sites(model)
    replacement = replacement_of(model, modules, anatomy)
    with holding(model, anatomy) as hold:
        hold.before = edits.apply(model, replacement)
        for path, old in hold.before.items():
            model.get_submodule(path).train(old.training)
        yield model


def replacement_of(model: nn.Module, modules: Mapping[str | Site, nn.Module], anatomy: Anatomy) -> Replacement:
    """The edits of `swap`, checked: every site once, none inside another, every operator one that fits."""
    _check_modules(modules)
    replacement: Replacement = []
    taken: dict[str, str] = {}
    for key, module in modules.items():
        for number, site in enumerate(_chosen(anatomy, key)):
            if site.name in taken:
                raise UserError(f"{site.name!r} is chosen twice, by {taken[site.name]!r} and by {str(key)!r}.")
            taken[site.name] = str(key)
            own = module if number == 0 else copy.deepcopy(module)
            if isinstance(own, Operator):
                replacement += replacement_for(model, site, own)
            else:
                replacement += _as_it_is(site, own)
    _check_apart([edit.path for edit, _ in replacement])
    return replacement


def _check_modules(modules: object) -> None:
    if not isinstance(modules, Mapping):
        raise UserError(f"modules must be a dict from sites, or their names, to torch modules, not {shown(modules)}.")
    for key, module in modules.items():
        if not isinstance(key, str | Site):
            raise UserError(f"The keys of modules must be sites or their names, not {shown(key)}.")
        if not isinstance(module, nn.Module):
            raise UserError(
                f"What modules puts at {str(key)!r} is {shown(module)}, not a torch.nn.Module. To take a sublayer out, "
                f'put the part "zero" there.'
            )


def _chosen(anatomy: Anatomy, key: str | Site) -> list[Site]:
    if isinstance(key, Site):
        return [key]
    return anatomy.select(key) if any(sign in key for sign in "*?[") else [anatomy.site(key)]


def replacement_for(model: nn.Module, site: Site, operator: Operator) -> Replacement:
    """The edits that put `operator` at the site, adapted to how the model calls it.

    Where the sublayer is several modules, the operator stands at the first and does the whole work: it is called with
    the sublayer's input (B, T, d_model) and returns its output. The others become identities of width d_model,
    whatever their own widths were, since all that still passes through them is that output.
    Raises UserError when the operator does not fit the site.
    """
    check_fits(site, operator)
    first, *rest = site.modules
    call: dict[str, Any] = {}
    module = model.get_submodule(first)
    if isinstance(module, Mixer | MixerCall):  # inside a block of ours, which calls it by the contract
        call = {} if isinstance(operator, Mixer | Block) else {"style": "mixer"}
    elif site.kind in ("mixer", "block") or site.outputs or takes_more(module):
        style = "block" if site.kind == "block" else "attention"
        call = convention(module, style, _layer_of_cache(module, site), site.outputs, site.as_list)
    return [(Edit(first, operator.spec(), call), operator), *_identities(rest, site.d_model)]


def check_fits(site: Site, operator: Operator) -> None:
    """Raise UserError, saying why, if the operator cannot stand at the site."""
    name = type(operator).__name__
    if site.locked:
        raise UserError(f"No operator can stand at {site.name!r}: {site.locked}.")
    spec = operator.spec()
    widths = {spec.get("d_in", operator.d_in), spec.get("d_out", operator.d_in)}
    if widths != {site.d_model}:
        raise UserError(
            f"{name} is made for width {' -> '.join(map(str, sorted(widths)))}, but {site.name!r} has width "
            f"{site.d_model}. Build it with d_model={site.d_model}."
        )
    if not isinstance(operator, Mixer | Block):
        return  # token-wise: fits everywhere
    if site.kind in ("ffn", "norm"):
        raise UserError(
            f"{name} mixes tokens, but {site.name!r} is a {site.kind} site, where each token stands for itself. "
            f"Put it at an attention or block site, or take a token-wise operator."
        )
    if site.cross:
        raise UserError(
            f"{name} reads one sequence, but {site.name!r} is cross-attention, which reads a second one. Only "
            f"token-wise operators (zero, affine, ...) can stand there."
        )
    if site.causal and not operator.causal:
        raise UserError(
            f"{name} lets tokens read later tokens, but {site.name!r} is causal: the model would see what it is to "
            f"predict. Take a causal operator, or its causal setting."
        )


def _as_it_is(site: Site, module: nn.Module) -> Replacement:
    first, *rest = site.modules
    return [(Edit(first, {}, {}), module), *_identities(rest, site.d_model)]


def _identities(paths: list[str], d_model: int) -> Replacement:
    spec = {"name": "identity", "d_model": d_model}
    return [(Edit(path, spec, {}), catalogue.build(spec)) for path in paths]


def _layer_of_cache(module: nn.Module, site: Site) -> int:
    """Which layer of the model's cache is this sublayer's: the number its modules were given, or the block's index."""
    numbers = [getattr(part, "layer_idx", None) for part in module.modules()]
    return next((n for n in numbers if isinstance(n, int)), site.layer)


def _check_apart(paths: list[str]) -> None:
    for path in paths:
        inner = [other for other in paths if other.startswith(f"{path}.")]
        if inner:
            raise UserError(
                f"Both {path!r} and {inner[0]!r}, which is inside it, are to be replaced. Choose one: what "
                f"replaces the outer one has no place for the inner one."
            )
