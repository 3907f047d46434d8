"""Runs a part of a model: from some block on, or one block alone, on hidden states that were kept from before.

    replay = Replay(model, anatomy)
    hidden = replay.block_inputs(batch)                   # what enters each block, and what leaves the last
    replay.run_from(5, hidden[5], batch)                  # the model's output, blocks 0-4 not computed
    replay.run_block(5, hidden[5], batch)                 # block 5's output alone

Masks, rotary tables and the like stay the model's own business: its `forward` runs as always, but the blocks that are
not wanted hand their input on untouched. That is right only where a block depends on nothing but its hidden input and
on what the model makes from the batch. `exact` says whether it does; it is tried out, not assumed. T5 (whose first
block computes a bias for all), ALBERT (one block run many times) and encoder-decoder models are not of that kind. For
them everything here runs the whole model, and the `hidden` argument is not needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy.probe import example_inputs, with_decoder_ids
from layersmith.anatomy.running import MODEL_FAILURES, evaluating, plainly
from layersmith.anatomy.site import Anatomy
from layersmith.errors import UserError

Batch = dict[str, Any]


@dataclass(frozen=True)
class Captured:
    """One call of a module: what it was given and what it returned, as they were (not copies)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def input(self) -> Tensor:
        """The first tensor among the arguments."""
        return first_tensor([*self.args, *self.kwargs.values()])

    @property
    def hidden(self) -> Tensor:
        """The output tensor, or the first of a tuple."""
        return first_tensor([self.output])


class Replay:
    """Partial runs of one model. Modules are looked up at each call, so sublayers may be swapped in between.

    model    left as it is: every change is undone when a method returns or raises
    anatomy  of the model
    example  a small batch to try exactness on; needed for models whose inputs cannot be made from their config
    exact    whether a block can be run on its own; `why` says what speaks against it
    n_blocks blocks of all stacks, in the order they run
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, example: Batch | None = None):
        self.model = model
        self.blocks = tuple(path for stack in anatomy.blocks.values() for path in stack)
        self.n_blocks = len(self.blocks)
        self._outputs = {site.modules[0]: site.outputs for site in anatomy.of_kind("block")}
        takes = inspect.signature(model.forward).parameters
        self._always: Batch = {"use_cache": False} if "use_cache" in takes else {}
        self.exact, self.why = True, ""
        self.why = self._why_not(anatomy, example)
        self.exact = not self.why

    def block_inputs(self, batch: Batch) -> list[Tensor]:
        """What enters each block at its first run, then what leaves the last: n_blocks + 1 tensors (B, T, D)."""
        with self._recording(self.blocks) as calls:
            self._run(batch)
        last = calls[self.blocks[-1]][-1].hidden
        return [calls[path][0].input for path in self.blocks] + [last]

    def run_from(self, start: int, hidden: Tensor | None, batch: Batch) -> Any:
        """The model's output when `hidden` enters block `start`, as `block_inputs(batch)[start]` does.

        start = n_blocks leaves only what follows the blocks. Where not `exact`, the whole model runs on the batch.
        """
        self._check(start, self.n_blocks)
        if not self.exact:
            return self._run(batch)
        with ExitStack() as undo:
            self._pass_through(undo, range(start))
            self._enter_at(undo, start, hidden)
            return self._run(batch)

    def run_block(self, index: int, hidden: Tensor | None, batch: Batch) -> Tensor:
        """What block `index` makes of `hidden` (B, T, D); the rest of the model is not run (if `exact`)."""
        return self.capture(index, hidden, batch, ())[0]

    def capture(
        self, index: int, hidden: Tensor | None, batch: Batch, paths: Sequence[str]
    ) -> tuple[Tensor, dict[str, list[Captured]]]:
        """`run_block`, and the calls of the modules at `paths` that happened in it (several for a shared block)."""
        self._check(index, self.n_blocks - 1)
        block = self.blocks[index]
        with ExitStack() as undo:
            calls = undo.enter_context(self._recording((block, *paths)))
            if not self.exact:
                self._run(batch)
            else:
                self._pass_through(undo, range(index))
                self._enter_at(undo, index, hidden)
                stop = self.model.get_submodule(block).register_forward_hook(_stop)
                undo.callback(stop.remove)
                with suppress(_Stopped):
                    self._run(batch)
        return calls[block][-1].hidden, {path: calls[path] for path in paths}

    def capture_after(self, start: int, hidden: Tensor | None, batch: Batch, path: str) -> list[Captured]:
        """`run_from`, and the calls of the module at `path` that happened in it."""
        with self._recording([path]) as calls:
            self.run_from(start, hidden, batch)
        return calls[path]

    def calls_of(self, batch: Batch, paths: Sequence[str]) -> dict[str, list[Captured]]:
        """The calls of the modules at `paths` in one run of the whole model."""
        with self._recording(paths) as calls:
            self._run(batch)
        return calls

    def _run(self, batch: Batch) -> Any:
        # A cache would hold the layers that ran and miss those that did not.
        with plainly(self.model):
            return self.model(**{**self._always, **with_decoder_ids(self.model, batch)})

    def _check(self, index: int, largest: int) -> None:
        if not 0 <= index <= largest:
            raise UserError(f"There is no block {index}: the model has blocks 0 to {self.n_blocks - 1}.")

    def _pass_through(self, undo: ExitStack, indices: range) -> None:
        """Take these blocks out until `undo` ends."""
        for path in (self.blocks[i] for i in indices):
            parent_path, _, name = path.rpartition(".")
            parent, block = self.model.get_submodule(parent_path), self.model.get_submodule(path)
            undo.callback(setattr, parent, name, block)
            setattr(parent, name, PassThrough(block, self._outputs[path]))

    def _enter_at(self, undo: ExitStack, index: int, hidden: Tensor | None) -> None:
        """Let `hidden` be what enters block `index`, or what leaves the last one, until `undo` ends."""
        if hidden is None:
            raise UserError("A partial run needs the hidden states that enter its first block; see block_inputs.")
        if index < self.n_blocks:
            block = self.model.get_submodule(self.blocks[index])
            handle = block.register_forward_pre_hook(_hands_in(hidden), with_kwargs=True)
        else:
            last = self.model.get_submodule(self.blocks[-1])
            handle = last.register_forward_hook(_hands_out(hidden))
        undo.callback(handle.remove)

    @contextmanager
    def _recording(self, paths: Sequence[str]) -> Iterator[dict[str, list[Captured]]]:
        calls: dict[str, list[Captured]] = {path: [] for path in paths}
        handles = []
        try:
            for path in calls:
                hook = _recorder(calls[path])
                handles.append(self._module(path).register_forward_hook(hook, with_kwargs=True))
            yield calls
        finally:
            for handle in handles:
                handle.remove()

    def _module(self, path: str) -> nn.Module:
        try:
            return self.model.get_submodule(path)
        except AttributeError as error:
            raise UserError(f"The model has no module at {path!r}; was its block replaced?") from error

    def _why_not(self, anatomy: Anatomy, example: Batch | None) -> str:
        """Why a block cannot be run on its own; "" if each one, run alone, gives exactly what it gives in the model."""
        if len(anatomy.blocks) > 1:
            return f"the model has several stacks of blocks: {', '.join(anatomy.blocks)}"
        if any(site.calls > 1 for site in anatomy.of_kind("block")):
            return "one block is run several times in a forward pass"
        batch = example_inputs(self.model) if example is None else example
        with evaluating(self.model):
            hidden = self.block_inputs(batch)
            for index, path in enumerate(self.blocks):
                try:
                    alone = self.run_block(index, hidden[index], batch)
                except MODEL_FAILURES as error:
                    return f"{path} fails when the blocks before it are not run ({error})"
                if not torch.equal(alone, hidden[index + 1]):
                    return f"{path}, run alone, does not give what the next block gets"
        return ""


class PassThrough(nn.Module):
    """Stands for a block and returns its hidden input. Whatever else it is asked is answered by the block."""

    def __init__(self, block: nn.Module, outputs: int):
        super().__init__()
        # Not a child: the block's parameters must not appear a second time.
        self.__dict__["_block"] = block
        self.outputs = outputs

    def __getattr__(self, name: str) -> Any:
        # Models look at their blocks ("attention_type", "self_attn.batch_first") before they call them.
        return getattr(self.__dict__["_block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = first_tensor([*args, *kwargs.values()])
        return (hidden, *[None] * (self.outputs - 1)) if self.outputs else hidden


class _Stopped(Exception):
    """Ends a forward pass right after the block that was wanted."""


def _stop(module: nn.Module, args: Any, output: Any) -> None:
    raise _Stopped


def _recorder(calls: list[Captured]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(Captured(args, kwargs, output))

    return hook


def _hands_in(hidden: Tensor) -> Callable[..., Any]:
    """A pre-hook that puts `hidden` in the place of the tensor the block is called with."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        old = first_tensor([*args, *kwargs.values()])
        named = {name: hidden if a is old else a for name, a in kwargs.items()}
        return tuple(hidden if a is old else a for a in args), named

    return hook


def _hands_out(hidden: Tensor) -> Callable[..., Any]:
    """A hook that puts `hidden` in the place of the tensor the block returns."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden

    return hook


def first_tensor(items: Sequence[Any]) -> Tensor:
    """The first float tensor, looking into tuples: what a module reads among its arguments, or returns."""
    for item in items:
        if isinstance(item, tuple | list):
            item = next((t for t in item if isinstance(t, Tensor)), None)
        if isinstance(item, Tensor) and item.is_floating_point():
            return item
    raise UserError("A module of the model was called without a float tensor, so there is nothing to keep of it.")
