"""What a module does to its tokens, found by running it on changed inputs: does it mix them, look ahead, normalise?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from layersmith.anatomy.blocks import BlockParts
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.span import chain_of
from layersmith.errors import UserError


@dataclass(frozen=True)
class Mixing:
    """What a map of (B, T, D) does across tokens.

    mixes      a token's output depends on other tokens
    causal     it does, and only on earlier ones
    sensitive  the output depends on the input at all (freshly made layers may start at zero)
    """

    mixes: bool
    causal: bool
    sensitive: bool


@torch.no_grad()
def mixing(run: Callable[[Tensor], Tensor], x: Tensor) -> Mixing:
    """Try `run` on x (B, T, D) with the later half of its tokens replaced, the earlier half, and every second one.

    In a token-wise map other tokens leave an output unchanged but for rounding; in a mixer they change it by about
    the share of attention that the replaced tokens hold. (Every second one: windows may not cross the middle.)
    """
    half = x.shape[1] // 2
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), device="cpu").to(x)
    noise = noise * x.float().std().to(x.dtype) + x.mean()
    reference = run(x)
    if torch.isnan(reference).all():
        raise UserError(
            "The model yields NaN, so what its sublayers do to their tokens cannot be seen. Check its weights and its "
            "config, and its dtype (float16 overflows in many models: try bfloat16 or float32)."
        )
    tolerance = 1e-3 if x.dtype in (torch.float32, torch.float64) else 3e-2

    def reaches(into: slice, seen_at: slice) -> tuple[bool, bool]:
        """Whether replacing the tokens `into` changes the output at the tokens `seen_at`, and anywhere."""
        other = x.clone()
        other[:, into] = noise[:, into]
        change = (run(other).float() - reference.float()).abs()
        most = float(change.max())
        seen = change[:, seen_at]
        return seen.numel() > 0 and float(seen.max()) > tolerance * most, most > 0

    earlier, later = slice(0, half), slice(half, None)
    looks_ahead, sensitive = reaches(later, earlier)
    looks_back, _ = reaches(earlier, later)
    mixes = looks_ahead or looks_back or reaches(slice(1, None, 2), slice(0, None, 2))[0]
    return Mixing(mixes, causal=looks_back and not looks_ahead, sensitive=sensitive)


def try_branches(model: nn.Module, inputs: dict[str, Any], blocks: list[BlockParts]) -> dict[str, Mixing]:
    """How each branch of each block treats tokens, by the path of its first module.

    The model runs once more; each branch is tried out at its first call, with the arguments it gets there.
    """
    found: dict[str, Mixing] = {}
    handles = []

    def watch(path: str, modules: list[nn.Module], shape: tuple[int, ...]) -> Callable[..., None]:
        running = False

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            nonlocal running
            if running or path in found:
                return
            running = True  # the trial calls the module again, and this hook with it
            given = next(a for a in [*args, *kwargs.values()] if isinstance(a, Tensor))
            if given.numel() == math.prod(shape):
                found[path] = mixing(*_as_map(modules, args, kwargs, shape))
            else:  # tokens were padded or put into groups before (Pegasus-X): what is done with these looks at several
                found[path] = Mixing(mixes=True, causal=False, sensitive=True)
            running = False

        return hook

    for block in blocks:
        for branch in block.branches:
            if branch.chain:
                first, modules = branch.chain[0], [c.module for c in branch.chain]
                hook = watch(first.path, modules, block.hidden.shape)
                handles.append(first.module.register_forward_hook(hook, with_kwargs=True))
    try:
        with evaluating(model):
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _as_map(
    modules: list[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any], shape: tuple[int, ...]
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The chain as a map of (B, T, D) with everything else as it was called; and the tensor it was called with."""
    chain = chain_of(modules)
    given = next(a for a in [*args, *kwargs.values()] if isinstance(a, Tensor))

    def run(x: Tensor) -> Tensor:
        x = x.reshape(given.shape)

        def changed(argument: Any) -> Any:
            # nn.MultiheadAttention gets the same tensor three times, as query, key and value: all are the input.
            # A cache would grow with every trial.
            return x if argument is given else None if isinstance(argument, Cache) else argument

        result = chain(*map(changed, args), **{name: changed(a) for name, a in kwargs.items()})
        y = result[0] if isinstance(result, tuple | list) else result
        return y.reshape(shape)

    return run, given.reshape(shape)
