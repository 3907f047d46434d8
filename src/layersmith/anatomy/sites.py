"""Finds the sites of a model by structure: one small recorded forward pass, no list of class names.

    anatomy = find_sites(model)
    anatomy.site("layers.3.ffn")

Blocks are the elements of module lists that map (batch, tokens, width) to the same shape through residual additions;
`blocks.py` takes each apart. Here its parts get names and kinds. What a part does to the tokens (mixes them or not,
looks ahead or not) is found by running it on changed inputs, see `behaviour.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from layersmith.anatomy import notes
from layersmith.anatomy.adapters import open_up
from layersmith.anatomy.behaviour import Mixing, try_branches
from layersmith.anatomy.blocks import BlockParts, Branch, closure, is_norm, raw_values, take_apart
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.running import MODEL_FAILURES, check_module
from layersmith.anatomy.site import Anatomy, Site
from layersmith.anatomy.trace import Call, Trace, record
from layersmith.errors import UserError
from layersmith.kinds import check_kinds


def find_sites(model: nn.Module, example: dict[str, Any] | None = None) -> Anatomy:
    """The anatomy of `model`: its sites in execution order, and notes on everything that was not made a site.

    example  keyword arguments of one small forward call, with a batch of at least 2. Needed only for models whose
             inputs `probe.example_inputs` cannot make.

    Sublayers that are closed to replacement are opened first (`adapters.open_up`: same outputs, same state dict).
    Raises UserError, with what was and was not found, when the model has no residual blocks, and with the model's own
    error when it does not run.
    """
    check_module(model)
    check_kinds(find_sites, {"example": example})
    said = list(open_up(model))
    inputs = example_inputs(model) if example is None else dict(example)
    try:
        trace = record(model, inputs)
    except MODEL_FAILURES as error:
        raise UserError(notes.does_not_run(model, inputs, example is not None, error)) from error
    parts = _blocks(model, trace)
    if not parts:
        raise UserError(notes.nothing_found(model, trace))
    _check_batch_first(inputs, parts)
    behaviour = try_branches(model, inputs, parts)
    stacks = _stacks(parts)
    sites: list[Site] = []
    for stack, blocks in stacks.items():
        prefix = f"{stack}." if stack else ""
        for layer, block in enumerate(blocks):
            name = f"{prefix}layers.{layer}"
            found = _sublayers(trace, block, behaviour)
            said += [f"{name}: a sublayer ({s.role}) is not a site: {s.why}." for s in found if s.why]
            mixers = [s for s in found if s.kind == "mixer"]
            whole = _Part("block", "block", [block.call], causal=bool(mixers) and all(s.causal for s in mixers))
            members = [(name, whole), *((f"{name}.{s.role}", s) for s in found if not s.why)]
            sites += [_site(model, trace, full, s, (stack, layer), block) for full, s in members]
        final = _final_norm(trace, blocks[-1])
        if final is not None:
            part = _Part("final_norm", "norm", [final])
            sites.append(_site(model, trace, f"{prefix}final_norm", part, (stack, len(blocks)), blocks[-1]))
    said += notes.unplaced(model, trace, sites, [block.call for block in parts])
    paths = {stack: tuple(block.call.path for block in blocks) for stack, blocks in stacks.items()}
    return Anatomy(tuple(sites), paths, tuple(said))


@dataclass(frozen=True)
class _Part:
    """A site to be: what `Site` says of it, and the calls of its modules. `why` it is not a site ("": it is)."""

    role: str
    kind: str
    chain: list[Call]
    causal: bool = False
    cross: bool = False
    why: str = ""


def _blocks(model: nn.Module, trace: Trace) -> list[BlockParts]:
    """The model's blocks in execution order, each once."""
    listed = {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for name, _ in module.named_children()
    }
    candidates = {c.index: take_apart(trace, c) for c in trace.calls if c.path in listed}
    first: dict[str, BlockParts] = {}
    for block in _outermost(trace, candidates, trace.calls):
        first.setdefault(block.call.path, block)
    return list(first.values())


def _outermost(trace: Trace, candidates: dict[int, BlockParts | None], calls: Sequence[Call]) -> list[BlockParts]:
    """Of nested candidates the outer one is the block, unless an inner one has several sublayers itself."""
    found: list[BlockParts] = []
    done = -1
    for call in calls:
        block = candidates.get(call.index)
        if call.index <= done or block is None:
            continue
        inside = trace.inside(call)
        done = call.index + len(inside)
        inner = _outermost(trace, candidates, inside)
        found += inner if any(len(b.branches) > 1 for b in inner) else [block]
    return found


def _check_batch_first(inputs: dict[str, Any], blocks: list[BlockParts]) -> None:
    batch = next(len(item) for item in inputs.values() if isinstance(item, Tensor))
    for block in blocks:
        if block.hidden.shape[0] != batch == block.hidden.shape[1]:
            raise UserError(
                f"{block.call.path} takes hidden states of shape {block.hidden.shape} for a batch of {batch}: tokens "
                f"first. layersmith's operators take (batch, tokens, width); some models have a batch_first switch."
            )


def _stacks(blocks: list[BlockParts]) -> dict[str, list[BlockParts]]:
    """Blocks grouped by the module list they stand in, under the first telling part of its path ("" for one stack)."""
    groups: dict[tuple[str, ...], list[BlockParts]] = {}
    for block in blocks:
        key = tuple(piece for piece in block.call.path.split(".") if not piece.isdigit())
        groups.setdefault(key, []).append(block)
    if len(groups) == 1:
        return {"": blocks}
    named = {}
    for key, members in groups.items():
        elsewhere = {piece for other in groups if other != key for piece in other}
        named[next((piece for piece in key if piece not in elsewhere), "-".join(key))] = members
    return named


def _sublayers(trace: Trace, block: BlockParts, behaviour: dict[str, Mixing]) -> list[_Part]:
    """The sublayers and norms of a block, in execution order."""
    parts: list[_Part] = []
    for branch in block.branches:
        part = _sublayer(trace, block, branch, behaviour)
        parts.append(replace(part, role=_free(part.role, [p.role for p in parts])))
    own = [p.causal for p in parts if p.kind == "mixer" and not p.cross]
    # Cross-attention reads no other token of its own stream, but what stands in its place could.
    parts = [replace(p, causal=all(own)) if p.cross else p for p in parts]
    roles = [p.role for p in parts]
    for role, norm in _norms(trace, block, roles):
        parts.append(_Part(_free(role, [p.role for p in parts]), "norm", [norm]))
    return sorted(parts, key=lambda p: p.chain[0].start if p.chain else -1)


def _sublayer(trace: Trace, block: BlockParts, branch: Branch, behaviour: dict[str, Mixing]) -> _Part:
    """Kind and traits of one branch, from its behaviour and its operations."""
    here = closure(trace, trace.ops_of(block.call), {block.hidden.value})
    outside = closure(trace, range(block.call.end), trace.inputs) - here
    heavy = [trace.ops[i] for i in branch.ops if trace.ops[i].heavy]
    # Keys and values of cross-attention come from matrix products that nothing of this block went into.
    cross = any(here.isdisjoint(op.inputs) and not outside.isdisjoint(op.inputs) for op in heavy)
    chain = branch.chain or []
    seen = behaviour.get(chain[0].path) if chain else None
    if seen is not None and seen.sensitive:
        mixes, causal = seen.mixes, seen.causal
    else:
        # Nothing to see in the outputs (no module to run, or weights that are still zero): judge by the operations,
        # and take no chances with the future.
        # (Indices do not count: which tokens an expert gets depends on them, but none reads another.)
        mixes = causal = any(sum(v in here and v in trace.floating for v in op.inputs) > 1 for op in heavy)
    if cross:
        return _Part("cross_attn", "mixer", chain, cross=True, why=branch.why)
    return _Part("attn" if mixes else "ffn", "mixer" if mixes else "ffn", chain, causal, why=branch.why)


def _norms(trace: Trace, block: BlockParts, roles: list[str]) -> list[tuple[str, Call]]:
    """The block's norms, named after their sublayer: "attn_norm" before it or on the stream after it, ..."""
    on_stream = {norm.index: before for norm, before in block.spine_norms}
    tails = {call.index: k for k, branch in enumerate(block.branches) for call in branch.tail}
    chains = [call for branch in block.branches for call in branch.chain or []]
    found = []
    for norm in block.norms:
        if norm.index in on_stream:
            found.append((f"{roles[max(on_stream[norm.index] - 1, 0)]}_norm", norm))
        elif norm.index in tails:
            found.append((f"{roles[tails[norm.index]]}_post_norm", norm))
        elif not any(c.start <= norm.start and norm.end <= c.end for c in chains):
            reached = closure(trace, trace.ops_of(block.call), {out.value for out in norm.outputs})
            reads = [any(not reached.isdisjoint(trace.ops[i].inputs) for i in b.ops) for b in block.branches]
            if any(reads):
                found.append((f"{roles[reads.index(True)]}_norm", norm))
    return found


def _final_norm(trace: Trace, last: BlockParts) -> Call | None:
    """The first norm after the last block's last run that reads the stream."""
    final = [c for c in trace.calls if c.path == last.call.path][-1]
    if final.first_output is None:
        return None
    rest = range(final.end, len(trace.ops))
    stream = raw_values(trace, rest, final.first_output.value)
    for call in trace.calls[final.index + 1 :]:
        reads = call.first_input is not None and call.first_input.value in stream
        if reads and call.start >= final.end and is_norm(trace, call, last.hidden.shape[-1]):
            return call
    return None


def _site(model: nn.Module, trace: Trace, name: str, part: _Part, place: tuple[str, int], block: BlockParts) -> Site:
    first = part.chain[0]
    stack, layer = place
    return Site(
        name=name,
        kind=part.kind,
        modules=tuple(call.path for call in part.chain),
        layer=layer,
        stack=stack,
        d_model=block.hidden.shape[-1],
        causal=part.causal and part.kind in ("mixer", "block"),
        cross=part.cross,
        calls=sum(call.path == first.path for call in trace.calls),
        outputs=first.returned,
        as_list=first.as_list,
        locked=notes.lock(model, trace, part.chain),
    )


def _free(name: str, taken: list[str]) -> str:
    """`name`, or "name2", "name3", ... if it is taken."""
    number = 1 + sum(other.rstrip("0123456789") == name for other in taken)
    return name if number == 1 else f"{name}{number}"
