"""Finds the residual structure inside one block of a recorded forward pass: its additions, branches and norms.

The argument, which uses no class names. Call a tensor **raw** if some path from the block's input to it passes no
matrix product, convolution or attention. The residual stream is raw: it goes through the block by additions alone.
So walk back from the block's output along raw tensors. Wherever an addition joins a raw tensor with one that is not,
the second is what a sublayer wrote: a **branch**. Its operations reach back to raw tensors, which the sublayer read.
A sublayer's modules are the topmost ones that lie wholly inside the branch, from its first to its last that hold a
matrix product; what follows them (LayerScale, a post-norm, dropout) is how the block writes the result back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from layersmith.anatomy.probe import normalises
from layersmith.anatomy.trace import Arg, Call, Trace

_ADDITIONS = ("add", "add_", "addcmul", "addcmul_")
_SCALINGS = ("mul", "mul_", "div", "div_")


@dataclass
class Branch:
    """What one sublayer computed.

    ops      its operations (indices), from the raw tensors it read to the addition
    chain    its modules in call order; None when the code between them is not made of modules (then `why`)
    tail     modules after the chain, on the way back to the stream
    """

    ops: frozenset[int]
    addition: int
    chain: list[Call] | None = None
    tail: list[Call] = field(default_factory=list)
    why: str = ""


@dataclass
class BlockParts:
    """A block, taken apart. `spine_norms` sit on the stream itself, with the number of branches before them."""

    call: Call
    hidden: Arg
    branches: list[Branch]
    norms: list[Call]
    spine_norms: list[tuple[Call, int]]


def hidden_argument(call: Call) -> Arg | None:
    """The argument that carries the stream: the first float (B, T, D) with the shape of what is returned."""
    result = call.first_output
    if result is None or not result.floating or len(result.shape) != 3:
        return None
    return next((a for a in call.inputs if a.floating and a.shape == result.shape), None)


def closure(trace: Trace, ops: range, roots: set[int]) -> set[int]:
    """All values that `ops` compute from `roots`."""
    found = set(roots)
    for op in trace.ops[ops.start : ops.stop]:
        if not found.isdisjoint(op.inputs):
            found.update(op.outputs)
    return found


def raw_values(trace: Trace, ops: range, root: int) -> set[int]:
    """The raw tensors: what `ops` compute from `root` without a matrix product, masks and indices left out."""
    found = {root}
    for op in trace.ops[ops.start : ops.stop]:
        if not op.heavy and not found.isdisjoint(op.inputs):
            found.update(trace.floating.intersection(op.outputs))
    return found


def take_apart(trace: Trace, call: Call) -> BlockParts | None:
    """The parts of a block, or None where no residual addition leads from its input to its output."""
    hidden = hidden_argument(call)
    if hidden is None or call.first_output is None:
        return None
    ops, inside = trace.ops_of(call), trace.inside(call)
    raw = raw_values(trace, ops, hidden.value)
    from_input = closure(trace, ops, {hidden.value})
    producers = {v: i for i in ops for v in trace.ops[i].outputs}
    width = hidden.shape[-1]
    norms = [c for c in inside if is_norm(trace, c, width)]

    spine, additions = _walk_back(trace, call.first_output.value, hidden.value, raw, from_input, producers)
    if hidden.value not in spine:
        return None
    branches = []
    for addition, written in additions:
        branches += _branches(trace, addition, written, raw, producers)
    branches = sorted((b for b in branches if any(trace.ops[i].heavy for i in b.ops)), key=lambda b: min(b.ops))
    if not branches:
        return None
    for branch in branches:
        _find_modules(trace, inside, branch, branches, [c for c in norms if _reads(c) in raw], width)
    spine_norms = [
        (c, sum(b.addition < c.start for b in branches)) for c in norms if _wrote(c) in spine and _reads(c) in spine
    ]
    return BlockParts(call, hidden, branches, norms, spine_norms)


def _walk_back(
    trace: Trace, output: int, hidden: int, raw: set[int], from_input: set[int], producers: dict[int, int]
) -> tuple[set[int], list[tuple[int, int]]]:
    """The values of the stream, and every (addition, value that a sublayer added there)."""
    spine: set[int] = set()
    additions: list[tuple[int, int]] = []
    frontier = [output] if output in raw else []
    while frontier:
        value = frontier.pop()
        if value in spine:
            continue
        spine.add(value)
        if value == hidden or value not in producers:
            continue
        index = producers[value]
        op = trace.ops[index]
        frontier += [v for v in op.inputs if v in raw]
        if op.name in _ADDITIONS:
            additions += [(index, v) for v in op.inputs if v in from_input and v not in raw]
    return spine, additions


def _branches(trace: Trace, addition: int, written: int, raw: set[int], producers: dict[int, int]) -> list[Branch]:
    """The branch that computed `written`; two if it is the sum of two sublayers side by side (GPT-NeoX, GPT-J)."""
    last = producers.get(written)
    while last is not None and trace.ops[last].name in _SCALINGS and len(trace.ops[last].inputs) == 1:
        last = producers.get(trace.ops[last].inputs[0])  # Granite scales the sum by a number
    if last is not None and trace.ops[last].name in _ADDITIONS:
        op = trace.ops[last]
        parts = [_slice(trace, v, raw, producers) for v in op.inputs]
        apart = len(parts) == 2 and parts[0].isdisjoint(parts[1]) and all(_heavy(trace, p) for p in parts)
        # A sum of two experts is also a sum of two disjoint parts, but one written inside the sublayer's own module.
        if apart and op.call == trace.ops[addition].call:
            return [b for v in op.inputs for b in _branches(trace, addition, v, raw, producers)]
    return [Branch(_slice(trace, written, raw, producers), addition)]


def _slice(trace: Trace, value: int, raw: set[int], producers: dict[int, int]) -> frozenset[int]:
    """Operations that `value` was computed by, back to raw values and to what came from outside the block."""
    found: set[int] = set()
    frontier = [value]
    while frontier:
        current = frontier.pop()
        index = producers.get(current)
        if index is not None and index not in found and current not in raw:
            found.add(index)
            frontier += trace.ops[index].inputs
    return frozenset(found)


def _find_modules(
    trace: Trace, inside: list[Call], branch: Branch, branches: list[Branch], pre_norms: list[Call], width: int
) -> None:
    """Fill in the branch's chain and tail."""
    others = frozenset().union(*(b.ops for b in branches if b is not branch)) - branch.ops
    additions = {b.addition for b in branches}
    top: list[Call] = []
    for call in inside:
        if top and call.start < top[-1].end:
            continue  # inside one that was taken already
        ops = set(trace.ops_of(call))
        belongs = not ops.isdisjoint(branch.ops) and ops.isdisjoint(others) and ops.isdisjoint(additions)
        if belongs and not any(call.start <= n.start and n.end <= call.end for n in pre_norms):
            top.append(call)
    bearing = [k for k, c in enumerate(top) if _heavy(trace, trace.ops_of(c))]
    if not bearing:
        branch.why = "none of its matrix products belongs to a module of its own"
        return
    chain, branch.tail = top[bearing[0] : bearing[-1] + 1], top[bearing[-1] + 1 :]
    branch.why = _broken(trace, branch, chain, width)
    branch.chain = None if branch.why else chain


def _broken(trace: Trace, branch: Branch, chain: list[Call], width: int) -> str:
    """Why the modules are not one unbroken chain from (…, width) to (…, width); "" if they are."""
    covered = set().union(*(trace.ops_of(c) for c in chain))
    if any(trace.ops[i].heavy for i in branch.ops - covered):
        return "some of its matrix products or its attention are written out between its modules"
    for before, after in pairwise(chain):
        arguments = {a.value for a in after.inputs}
        if arguments != {_wrote(before)} or after.returned != 0:
            return f"the code between {before.path} and {after.path} is more than a hand-over"
    ends = (chain[0].first_input, chain[-1].first_output)
    if any(end is None or end.shape[-1] != width for end in ends):
        return f"it does not lead from width {width} to width {width} in modules"
    return ""


def is_norm(trace: Trace, call: Call, width: int) -> bool:
    """Whether the module called is a norm over the stream's width, by its shape, operations and behaviour."""
    source, result = call.first_input, call.first_output
    if source is None or result is None or call.returned != 0 or len(call.inputs) != 1:
        return False
    if source.shape != result.shape or source.shape[-1] != width or call.start == call.end:
        return False
    return not _heavy(trace, trace.ops_of(call)) and normalises(call.module, width)


def _heavy(trace: Trace, ops: frozenset[int] | range) -> bool:
    return any(trace.ops[i].heavy for i in ops)


def _reads(call: Call) -> int:
    return call.first_input.value if call.first_input else -1


def _wrote(call: Call) -> int:
    return call.first_output.value if call.first_output else -1
