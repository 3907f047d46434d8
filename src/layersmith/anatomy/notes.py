"""What `find_sites` says about everything that is not an open site: nothing is skipped in silence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from layersmith.anatomy.blocks import hidden_argument
from layersmith.anatomy.site import Site
from layersmith.anatomy.trace import Call, Trace


def lock(model: nn.Module, trace: Trace, chain: Sequence[Call]) -> str:
    """Why no operator may stand where this chain of modules is; "" if one may."""
    first, end = chain[0], chain[-1].end
    extra = {a.value for a in first.outputs if a.key != 0}
    extra -= {a.value for a in first.inputs}  # handed on, which our adapters do as well
    extra = extra & learned(trace) if extra else extra
    later = [a.value for call in trace.calls if call.start >= end for a in call.inputs]
    if extra and (not extra.isdisjoint(later) or any(not extra.isdisjoint(op.inputs) for op in trace.ops[end:])):
        return (
            f"besides its output, {first.path} computes something that later blocks use (T5's relative position bias "
            f"is such a thing)"
        )
    for call in chain:
        paths = [p for p, m in model.named_modules(remove_duplicate=False) if m is call.module]
        owners = {id(model.get_submodule(p.rpartition(".")[0])) for p in paths}
        if len(owners) > 1 or len({p.rpartition(".")[2] for p in paths}) > 1:
            return f"one module stands in several places: {', '.join(paths)}"
    return ""


def unplaced(model: nn.Module, trace: Trace, sites: Sequence[Site], blocks: Sequence[Call]) -> list[str]:
    """A note for each kind of module that holds parameters and belongs to no site, and for each locked site."""
    covered = tuple(f"{path}." for s in sites if s.kind != "block" for path in s.modules)
    called = {c.path for c in trace.calls}
    in_blocks = tuple(f"{c.path}." for c in blocks)
    groups: dict[tuple[str, str], list[str]] = {}
    for path, module in model.named_modules():
        if f"{path}.".startswith(covered) or not any(True for _ in module.parameters(recurse=False)):
            continue
        if path not in called:
            why = "did not run in the probe, or the model uses its weights without calling it"
        elif f"{path}.".startswith(in_blocks):
            why = "in the blocks, but in no site; it stays as it is"
        else:
            why = "outside the blocks; it stays as it is"
        groups.setdefault((_pattern(path), why), []).append(path)
    found = [_count(pattern, paths) + f": {why}." for (pattern, why), paths in groups.items()]
    lists = {c.path.rpartition(".")[0] for c in blocks}
    among = called - {c.path for c in blocks}
    found += [
        f"{path}: stands among the blocks, but no sublayer of it adds to a residual stream; not counted as a block."
        for path in sorted(among)
        if path.rpartition(".")[0] in lists and path.rpartition(".")[2].isdigit()
    ]
    experts = _experts(model, sites)
    found += [
        _count(p, paths) + ": experts and their router, replaced as a whole; the experts are no sites of their own."
        for p, paths in experts.items()
    ]
    inner = _inner_norms(model, sites)
    found += [_count(p, paths) + ": a norm inside a sublayer, part of that site." for p, paths in inner.items()]
    return found + [f"{s.name}: no operator may stand here: {s.locked}." for s in sites if s.locked]


def does_not_run(model: nn.Module, inputs: dict[str, Any], given: bool, error: Exception) -> str:
    """The message for a model whose forward pass fails."""
    fed = ", ".join(f"{n} {tuple(t.shape)}" if isinstance(t, Tensor) else f"{n}={t!r}" for n, t in inputs.items())
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    advice = (
        "Check the example: it has to be the keyword arguments of one forward call."
        if given
        else "If the model needs other inputs, pass example={...}, the keyword arguments of one small forward call "
        "with a batch of 2; if it does not run in its dtype or on its device, move it first."
    )
    return f"{type(model).__name__} does not run on {fed}: {type(error).__name__}: {first_line} {advice}"


def nothing_found(model: nn.Module, trace: Trace) -> str:
    """The message for a model without residual blocks."""
    lists = [
        (p or "the model itself", m) for p, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)
    ]
    shaped = [c for c in trace.calls if hidden_argument(c) is not None]
    heavy = sum(op.heavy for op in trace.ops)
    said = [
        f"No residual blocks were found in {type(model).__name__}.",
        f"Found: {len(trace.calls)} module calls with {heavy} matrix products, convolutions or attentions;",
        f"{len(lists)} module lists" + (f" ({_few([p for p, _ in lists])})" if lists else "") + ";",
        f"{len(shaped)} calls that map (batch, tokens, width) to the same shape"
        + (f" ({_few([c.path or 'the model itself' for c in shaped])})." if shaped else "."),
        "Not found: an element of a module list that maps (batch, tokens, width) to that shape and whose output is its "
        "input plus what its sublayers computed.",
        "If the model's input is not representative, pass example={...} to find_sites.",
    ]
    return " ".join(said)


def learned(trace: Trace) -> set[int]:
    """Values that depend on a weight or an input: not the zeros and ranges a forward pass makes for itself."""
    found = trace.inputs | trace.weights
    for op in trace.ops:
        if not found.isdisjoint(op.inputs):
            found.update(op.outputs)
    return found


def _experts(model: nn.Module, sites: Sequence[Site]) -> dict[str, list[str]]:
    """The feed-forwards that keep the matrices of several experts in one parameter of three dimensions."""
    groups: dict[str, list[str]] = {}
    for site in sites:
        if site.kind == "ffn" and any(holds_experts(model.get_submodule(path)) for path in site.modules):
            groups.setdefault(_pattern(site.name), []).append(site.name)
    return groups


def holds_experts(module: nn.Module) -> bool:
    """Whether it has matrices of several experts in one parameter."""
    return any(p.dim() == 3 and min(p.shape) > 1 for p in module.parameters())


def _inner_norms(model: nn.Module, sites: Sequence[Site]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for site in sites:
        if site.kind in ("ffn", "mixer"):
            for top in site.modules:
                for path, module in model.get_submodule(top).named_modules(prefix=top):
                    sizes = [p.dim() for p in module.parameters(recurse=False)]
                    leaf = not any(True for _ in module.children())
                    if leaf and sizes and max(sizes) == 1 and path != top:
                        groups.setdefault(_pattern(path), []).append(path)
    return groups


def _pattern(path: str) -> str:
    """The path with the numbers of list elements left out."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)


def _count(pattern: str, paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{pattern} ({len(paths)} of them)"


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
