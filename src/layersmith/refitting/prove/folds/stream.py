"""Which weights write to the residual stream: found by walking back from what the norms read.

Between a norm and the weights before it, the stream is additions, concatenations and changes of shape. Each path
back ends at a writer: a linear map, a convolution, an embedding table, a parameter that is added (ViT's positions).
Anything else on the way (a norm, an activation, a learned scale) means that no change of weights alone can centre
what is written there, and is refused by name.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from layersmith.anatomy import Anatomy
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.trace import Op, Trace, record
from layersmith.errors import UserError

#: Operations that move or add up channels' values as they are.
_SUMS = {"add", "add_", "sub", "cat", "stack"}
_COPIES = {"clone", "_to_copy", "alias", "detach", "native_dropout"}
_SHAPES = {"view", "_unsafe_view", "reshape", "expand", "transpose", "permute", "t", "unsqueeze", "squeeze"}
PASSING = _SUMS | _COPIES | _SHAPES | {"slice", "select"}


def writers(model: nn.Module, anatomy: Anatomy) -> dict[str, int]:
    """Parameter name -> the dimension that runs over the stream's channels, for every writer. Raises UserError."""
    trace = record(model, example_inputs(model))
    producers = {value: op for op in trace.ops for value in op.outputs}
    paths = {path for site in anatomy.of_kind("norm") for path in site.modules}
    frontier = [(c.inputs[0].value, c.path) for c in trace.calls if c.path in paths]
    width = anatomy.sites[0].d_model
    found: dict[str, int] = {}
    seen: set[int] = set()
    while frontier:
        value, reader = frontier.pop()
        if value in seen or value not in trace.floating:
            continue
        seen.add(value)
        op = producers.get(value)
        if op is None:
            raise UserError(
                f"The residual stream that {reader} reads begins with a tensor that is no weight: the caller's own "
                f"input, or a table that is computed. It cannot be centred by changing weights."
            )
        passes = op.name in PASSING or (op.name in ("mul", "div") and len(op.inputs) == 1)
        if not passes:
            found |= _module_writer(trace, op, reader, paths)
            continue
        if not trace.weights.isdisjoint(op.inputs):
            found |= _own_parameters(trace, op, width)
        frontier += [(v, reader) for v in op.inputs if v not in trace.weights]
    return found


def _module_writer(trace: Trace, op: Op, reader: str, norms: set[str]) -> dict[str, int]:
    """The weights of the linear map, convolution or embedding that the operation is."""
    call = trace.calls[op.call]
    module: Any = call.module
    if op.name == "embedding" and isinstance(module, nn.Embedding):
        return {f"{call.path}.weight": 1}
    if op.heavy and isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        dimension = 0
    elif op.heavy and type(module).__name__ == "Conv1D":  # transformers' own, in GPT-2: stored (in, out)
        dimension = 1
    elif call.path in norms:
        raise UserError(
            f"{call.path} stands on the residual stream itself (Post-LN): {reader} reads what it wrote with no linear "
            f"map in between, and a norm's output has a mean again. This fold is for norms before the sublayers."
        )
    else:
        raise UserError(
            f"What {call.path} ({type(module).__name__}) computes with {op.name!r} goes to {reader} by the residual "
            f"stream with no linear map in between, so no change of weights can take its mean away."
        )
    bias = {} if module.bias is None else {f"{call.path}.bias": 0}
    return {f"{call.path}.weight": dimension, **bias}


def _own_parameters(trace: Trace, op: Op, width: int) -> dict[str, int]:
    """The parameters as wide as the stream that the module doing the operation holds itself."""
    call = trace.calls[op.call]
    own = call.module.named_parameters(recurse=False)
    found = {f"{call.path}.{name}".lstrip("."): p.dim() - 1 for name, p in own if p.shape[-1:] == (width,)}
    if not found:
        raise UserError(
            f"{call.path} adds a table to the residual stream that is not a parameter of its own, so it cannot be "
            f"centred by changing weights."
        )
    return found
