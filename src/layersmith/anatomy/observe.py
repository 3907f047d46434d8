"""Watches one sublayer on a probe run: what it is called with, what it returns, and its matrices in order of use."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.probe import TOKENS, example_inputs
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.site import Site
from layersmith.anatomy.span import original

#: Probes are no longer than this many tokens.
LONGEST = 64


@dataclass(frozen=True)
class Matrix:
    """A linear map in float32: weight (out, in) and bias (out,) or None. The tensors may be views of the model's."""

    weight: Tensor
    bias: Tensor | None

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        return self.weight.shape[1]

    def split(self, rows: list[int]) -> list[Matrix]:
        """Consecutive groups of rows as matrices of their own."""
        biases = [None] * len(rows) if self.bias is None else self.bias.split(rows)
        return [Matrix(w, b) for w, b in zip(self.weight.split(rows), biases, strict=True)]

    def deal(self, hands: int, rows: int) -> list[Matrix]:
        """Groups of `rows` rows dealt out in turn, like cards: how GPT-NeoX keeps q, k, v of each head together."""
        weight = self.weight.unflatten(0, (-1, hands, rows))
        bias = None if self.bias is None else self.bias.unflatten(0, (-1, hands, rows))
        return [
            Matrix(weight[:, i].flatten(0, 1), None if bias is None else bias[:, i].flatten()) for i in range(hands)
        ]


class _Done(Exception):
    """Ends a probe run: the sublayer has been seen, the rest of the model need not run."""


@dataclass(frozen=True)
class Observed:
    """One call of a sublayer, recomputed in float32, so that bfloat16 rounding hides no difference.

    args, kwargs  what it was called with
    output        the tensor it returned
    half_tables   it was handed rotary tables in half precision, which no recomputation makes exact again
    modules       every module inside the site that ran, in order of use, by path in the model
    matrices      those of them that are linear maps
    sublayer      the original, in float32
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    half_tables: bool
    modules: dict[str, nn.Module]
    matrices: dict[str, Matrix]
    sublayer: nn.Module

    def call(self, factor: float) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with the hidden states `factor` times as large."""
        x = self.hidden
        larger = x * factor
        kwargs = {name: larger if a is x else a for name, a in self.kwargs.items()}
        return tuple(larger if a is x else a for a in self.args), kwargs

    def run(self, factor: float) -> Tensor:
        """What the original makes of hidden states `factor` times as large."""
        args, kwargs = self.call(factor)
        with evaluating(self.sublayer):
            output = self.sublayer(*args, **kwargs)
        return output[0] if isinstance(output, tuple | list) else output

    @property
    def hidden(self) -> Tensor:
        """The hidden states among the arguments: the first floating-point tensor."""
        arguments = [*self.args, *self.kwargs.values()]
        return next(a for a in arguments if isinstance(a, Tensor) and a.is_floating_point())


def tables_of(kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    """The rotary tables a sublayer is handed: (cos, sin), one complex tensor, or none."""
    tables = kwargs.get("position_embeddings")
    if isinstance(tables, Tensor):
        return (tables,)
    return tuple(tables) if isinstance(tables, tuple | list) else ()


@torch.no_grad()
def observe(model: nn.Module, site: Site) -> Observed:
    """Run the model once on a small input and watch the site.

    A mixer sees `LONGEST` tokens where the model takes as many, so that a narrower window shows.
    """
    tokens = TOKENS if site.kind == "ffn" else min(LONGEST, longest_input(model) or LONGEST)
    inputs = example_inputs(model, tokens=tokens)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    used: dict[str, nn.Module] = {}

    def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    def done(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise _Done

    def note(path: str) -> Any:
        def run(module: nn.Module, args: tuple[Any, ...]) -> None:
            used.setdefault(path, module)

        return run

    hooks: list[Any] = [
        model.get_submodule(site.modules[0]).register_forward_pre_hook(called, with_kwargs=True),
        model.get_submodule(site.modules[-1]).register_forward_hook(done),
    ]
    for top in site.modules:
        for path, module in model.get_submodule(top).named_modules(prefix=top):
            hooks.append(module.register_forward_pre_hook(note(path)))
    try:
        with evaluating(model), suppress(_Done):
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    half_tables = any(t.itemsize < 4 for t in tables_of(calls[0][1]))
    args, kwargs = (in_float32(c) for c in calls[0])
    matrices = {path: matrix for path, module in used.items() if (matrix := _matrix(module)) is not None}
    if site.kind == "ffn" and args and matrices:
        args = (_several_sizes(args[0], next(iter(matrices.values()))), *args[1:])
    sublayer = original(model, site)
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in sublayer.parameters()):
        sublayer = copy.deepcopy(sublayer).float()
    seen = Observed(args, kwargs, torch.empty(0), half_tables, modules=used, matrices=matrices, sublayer=sublayer)
    return replace(seen, output=seen.run(1.0))


def _several_sizes(x: Tensor, first: Matrix) -> Tensor:
    """Inputs that drive the hidden layer weakly, as usual, and strongly.

    Weak inputs see a smooth activation as a straight line and strong ones see it as a hinge, whichever it is.
    """
    if x.shape[-1] == first.columns:
        x = x / (x @ first.weight.T).square().mean().sqrt()
    return torch.cat([x / 4, x, x * 4])


def _matrix(module: Any) -> Matrix | None:
    if isinstance(module, nn.Linear):
        weight = module.weight
    elif type(module).__name__ == "Conv1D":  # transformers' own, in GPT-2: stored (in, out)
        weight = module.weight.T
    else:
        return None
    return Matrix(weight.detach().float(), None if module.bias is None else module.bias.detach().float())


def in_float32(value: Any) -> Any:
    """Floating-point tensors in float32, inside tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(in_float32(v) for v in value)
    if type(value) is dict:
        return {k: in_float32(v) for k, v in value.items()}
    return value
