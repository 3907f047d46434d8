"""What a check gets: the part under test, how to build it, how to feed it, how to say no.

A check is a function `(Subject) -> str`: it returns one line of what it measured, or raises `Failed` with what is
wrong. It is asked only about parts of which it says something (`applies.py`).

Checks of exactness run in float64, so that a leak of any size stands out from rounding. Every parameter is moved a
little off its initial value first: behind a gate that starts at zero, a leak or a dropped gradient would not show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.contract import Operator, State

#: How far parameters are moved from their initial values: small against 1, large against rounding.
JITTER = 0.05


class Failed(Exception):
    """The part breaks the contract; the message says where and by how much."""


@dataclass(frozen=True)
class Subject:
    """One part under one configuration; `backend` is what torch.compile is asked for."""

    part: type[Operator]
    config: dict[str, Any]
    backend: str = "aot_eager"

    token_mixing: ClassVar[tuple[str, ...]] = ("mixer", "block")

    @property
    def mixes_tokens(self) -> bool:
        """True for mixers and blocks, which take (B, T, D), a state and a mask; False for token-wise families."""
        return self.part.family in self.token_mixing

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Operator:
        """A part in evaluation mode, parameters off their initial values; `changes` replace config arguments."""
        torch.manual_seed(seed)
        module = self.part(**{**self.config, **changes})
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    parameter.add_(JITTER * torch.randn_like(parameter))
        return module.eval().to(dtype)

    def input(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
        """Standard normal activations of `shape` with the part's input width appended."""
        width = self.config["d_in"] if self.part.family == "linear" else self.config["d_model"]
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, width, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

    @property
    def d_out(self) -> int:
        return self.config["d_out"] if self.part.family == "linear" else self.config["d_model"]


def outputs(module: Operator, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> Tensor:
    """The output tensor of any family."""
    return with_state(module, x, state, mask)[0] if module.family in Subject.token_mixing else module(x)


def with_state(
    module: Operator, x: Tensor, state: State | None = None, mask: Tensor | None = None
) -> tuple[Tensor, State | None]:
    """Run a mixer or block, insisting on the (outputs, state) pair its contract promises."""
    answer = module(x, state=state, mask=mask)
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Tensor)):
        raise Failed(f"forward returned {type(answer).__name__}; a {module.family} returns the pair (y, state)")
    return answer


def error(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference relative to the largest expected value (NaN counts as infinite)."""
    if got.shape != expected.shape:
        raise Failed(f"shape {tuple(got.shape)} where {tuple(expected.shape)} was expected")
    if got.numel() == 0:
        return 0.0
    scale = max(expected.abs().max().item(), 1e-12)
    difference = (got - expected).abs().max().item() / scale
    return float("inf") if difference != difference else difference


def require_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> float:
    """The relative error; `Failed` when it is above the tolerance."""
    measured = error(got, expected)
    if not measured <= tolerance:
        raise Failed(f"{what}: relative error {measured:.1e}, allowed {tolerance:.0e}")
    return measured


def require_finite(tensor: Tensor, what: str) -> None:
    if not torch.isfinite(tensor).all():
        bad = (~torch.isfinite(tensor)).sum().item()
        raise Failed(f"{what}: {bad} of {tensor.numel()} values are not finite")
