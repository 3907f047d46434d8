"""Records one forward pass: which module was called when, and which tensor operation read and wrote what.

Recording only; `blocks.py` and `sites.py` do the reasoning. Every tensor that appears gets a number, its **value**.
A write in place gives the tensor a new value, so that the recording reads like a program without side effects.
Tensors are not kept alive: the numbers hang on weak references, and a recording costs little memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from layersmith.anatomy.running import evaluating

#: Operations in which channels or tokens meet: matrix products, convolutions, attention, Fourier transforms. What is
#: left between two of them is element-wise work, normalisation and bookkeeping.
_HEAVY = re.compile(
    r"^(addmm|mm|bmm|baddbmm|addbmm|mv|addmv|dot|matmul|linear|einsum|.*conv(olution|\dd)\w*|.*_mm\w*|.*attention.*"
    r"|\w+_linear|_?fft\w*)$"
)
#: Operations that read nothing of their input but its shape.
_SHAPE_ONLY = re.compile(r"^((zeros|ones|full|empty|rand|randn|randint)_like|new_\w+)$")


@dataclass(frozen=True)
class Op:
    """One tensor operation. `call` is the index of the innermost module call it belongs to."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    call: int

    @property
    def heavy(self) -> bool:
        return bool(_HEAVY.match(self.name))


@dataclass(frozen=True)
class Arg:
    """A tensor handed to or returned by a module. `key` is its position, or its name as a keyword."""

    key: int | str
    value: int
    shape: tuple[int, ...]
    floating: bool


@dataclass
class Call:
    """One call of one module. Its operations are `trace.ops[start:end]`, those of its children included.

    returned  0 when the module returned a tensor, n for a tuple or list of n, -1 for anything else
    as_list   it was a list
    """

    index: int
    path: str
    module: nn.Module
    parent: int
    start: int
    end: int = -1
    inputs: list[Arg] = field(default_factory=list)
    outputs: list[Arg] = field(default_factory=list)
    returned: int = 0
    as_list: bool = False

    @property
    def first_input(self) -> Arg | None:
        return self.inputs[0] if self.inputs else None

    @property
    def first_output(self) -> Arg | None:
        return self.outputs[0] if self.outputs and self.outputs[0].key == 0 else None


@dataclass
class Trace:
    """A recorded forward pass.

    inputs    values of what the caller passed
    weights   values of parameters and buffers
    floating  values that are floating-point tensors, not masks or indices
    """

    calls: list[Call] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    inputs: set[int] = field(default_factory=set)
    weights: set[int] = field(default_factory=set)
    floating: set[int] = field(default_factory=set)

    def inside(self, call: Call) -> list[Call]:
        """Calls made while `call` ran, in order (not itself)."""
        found = []
        for other in self.calls[call.index + 1 :]:
            if not self._within(other, call):
                break
            found.append(other)
        return found

    def _within(self, inner: Call, outer: Call) -> bool:
        while inner.parent >= 0:
            if inner.parent == outer.index:
                return True
            inner = self.calls[inner.parent]
        return False

    def ops_of(self, call: Call) -> range:
        return range(call.start, call.end)


class Recorder(TorchDispatchMode):
    """Context manager that records the operations that run inside it; `hooks` report the module calls to it."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self._values = WeakTensorKeyDictionary()
        self._count = 0
        self._stack: list[int] = []

    def value(self, tensor: Tensor) -> int:
        if tensor not in self._values:
            self._fresh(tensor)
        return self._values[tensor]

    def _fresh(self, tensor: Tensor) -> int:
        self._values[tensor] = self._count
        if tensor.is_floating_point() or tensor.is_complex():
            self.trace.floating.add(self._count)
        self._count += 1
        return self._values[tensor]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        read = [] if _SHAPE_ONLY.match(name) else _tensors(args, kwargs)
        inputs = tuple(self.value(t) for _, t in read)
        result = func(*args, **kwargs)
        written = list(_written(func, args, kwargs))
        outputs = [t for _, t in _tensors((result,), {})]
        values = [self._fresh(t) for t in written]
        # Writing into a view changes what it is a view of.
        values += [self._fresh(t._base) for t in written if t._base is not None]
        values += [self.value(t) for t in outputs if all(t is not w for w in written)]
        call = self._stack[-1] if self._stack else -1
        self.trace.ops.append(Op(name, inputs, tuple(dict.fromkeys(values)), call))
        return result

    def enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        parent = self._stack[-1] if self._stack else -1
        call = Call(len(self.trace.calls), path, module, parent, start=len(self.trace.ops))
        call.inputs = self._args(args, kwargs)
        self.trace.calls.append(call)
        self._stack.append(call.index)

    def leave(self, output: Any) -> None:
        call = self.trace.calls[self._stack.pop()]
        call.end = len(self.trace.ops)
        if isinstance(output, Tensor):
            call.outputs, call.returned = self._args((output,), {}), 0
        elif type(output) in (tuple, list):
            call.outputs, call.returned = self._args(tuple(output), {}), len(output)
            call.as_list = isinstance(output, list)
        else:
            call.returned = -1

    def _args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Arg]:
        return [Arg(key, self.value(t), tuple(t.shape), t.is_floating_point()) for key, t in _tensors(args, kwargs)]


def record(model: nn.Module, inputs: dict[str, Any]) -> Trace:
    """Run `model(**inputs)` in evaluation mode without gradients and record it. Leaves nothing behind."""
    recorder = Recorder()
    trace = recorder.trace
    trace.weights = {recorder.value(t) for t in [*model.parameters(), *model.buffers()]}
    trace.inputs = {recorder.value(t) for _, t in _tensors((), inputs)}
    handles = []
    for path, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(
                lambda m, args, kwargs, path=path: recorder.enter(path, m, args, kwargs), with_kwargs=True
            )
        )
        handles.append(module.register_forward_hook(lambda m, args, output: recorder.leave(output)))
    try:
        with evaluating(model), recorder:
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[tuple[int | str, Tensor]]:
    """Every tensor in the arguments with the position or name of the argument it came in."""
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for key, item in arguments:
        if isinstance(item, Tensor):
            yield key, item
        elif isinstance(item, (tuple, list)):
            for _, tensor in _tensors(item, {}):
                yield key, tensor
        elif isinstance(item, dict):
            for _, tensor in _tensors((), item):
                yield key, tensor


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors an operation writes into, by its schema."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            item = args[position] if position < len(args) else kwargs.get(argument.name)
            if isinstance(item, Tensor):
                yield item
