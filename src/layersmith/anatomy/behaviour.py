"""What a module does to its tokens, found by running it on changed inputs: does it mix them, look ahead, normalise?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy.blocks import BlockParts
from layersmith.anatomy.span import chain_of
from layersmith.anatomy.trace import evaluating


@dataclass(frozen=True)
class Mixing:
    """What a map of (B, T, D) does across tokens.

    mixes         a token's output depends on other tokens
    causal        it does, and only on earlier ones
    sensitive     the output depends on the input at all (freshly made layers may start at zero)
    samples_apart samples of a batch do not influence each other
    """

    mixes: bool
    causal: bool
    sensitive: bool
    samples_apart: bool


@torch.no_grad()
def mixing(run: Callable[[Tensor], Tensor], x: Tensor) -> Mixing:
    """Try `run` on x (B, T, D) with the later half of its tokens replaced, the earlier half, and the last sample.

    In a token-wise map other tokens leave an output unchanged but for rounding; in a mixer they change it by about
    the share of attention that the replaced half holds.
    """
    half = x.shape[1] // 2
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    noise = noise * x.float().std().to(x.dtype) + x.mean()
    reference = run(x)

    def change(into: tuple[slice, slice], seen_at: tuple[slice, slice]) -> tuple[float, float]:
        """Largest change of the output at `seen_at`, and anywhere, when the input at `into` is replaced."""
        other = x.clone()
        other[into] = noise[into]
        difference = (run(other).float() - reference.float()).abs()
        return float(difference[seen_at].max()), float(difference.max())

    every = slice(None)
    earlier, later = (every, slice(0, half)), (every, slice(half, None))
    tolerance = 1e-3 if x.dtype in (torch.float32, torch.float64) else 3e-2
    back, most_back = change(later, earlier)
    forth, most_forth = change(earlier, later)
    looks_ahead = back > tolerance * most_back
    looks_back = forth > tolerance * most_forth
    leak, most = change((slice(-1, None), every), (slice(0, -1), every)) if len(x) > 1 else (0.0, 0.0)
    return Mixing(
        mixes=looks_ahead or looks_back,
        causal=looks_back and not looks_ahead,
        sensitive=max(most_back, most_forth) > 0,
        samples_apart=leak <= tolerance * most,
    )


def observe(model: nn.Module, inputs: dict[str, Any], blocks: list[BlockParts]) -> dict[str, Mixing]:
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
            found[path] = mixing(*_as_map(modules, args, kwargs, shape))
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
        # nn.MultiheadAttention gets the same tensor three times, as query, key and value: all of them are the input.
        x = x.reshape(given.shape)
        changed = [x if a is given else a for a in args]
        result = chain(*changed, **{k: x if v is given else v for k, v in kwargs.items()})
        y = result[0] if isinstance(result, tuple | list) else result
        return y.reshape(shape)

    return run, given.reshape(shape)
