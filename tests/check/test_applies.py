"""What a check is asked about: decided by what a part declares, never by a check that gave up half-way."""

from __future__ import annotations

import inspect

import pytest
from torch import Tensor, nn

from layersmith.check import CHECKS, SCHEME_CHECKS, check
from layersmith.check.applies import CONDITIONS, why_not
from layersmith.contract import Linear
from layersmith.ffn.identity import Identity
from layersmith.mixer.deltanet import DeltaNet
from layersmith.mixer.soft_moe import SoftMoE
from layersmith.mixer.softmax import SoftmaxAttention

STREAMING = {"chunked", "step_by_step", "padded_decode", "state_rows", "state_bytes"}
ACROSS_TOKENS = STREAMING | {"causal", "padding_invariance", "refuses_state"}


def left_out(part: nn.Module) -> set[str]:
    return {name for name in CHECKS if why_not(name, part) is not None}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Identity(8), ACROSS_TOKENS | {"gradient_reaches_parameters", "refuses_unknown_choices"}),
        (SoftmaxAttention(16, 2), {"token_wise", "refuses_unknown_choices"}),
        (SoftmaxAttention(16, 2, causal=False), STREAMING | {"token_wise", "causal", "refuses_unknown_choices"}),
        (DeltaNet(16, 2), {"token_wise", "refuses_unknown_choices", "refuses_state"}),
        (SoftMoE(16, 8, 4), STREAMING | {"token_wise", "causal", "refuses_unknown_choices"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_left_out_follows_from_what_the_part_declares(part: nn.Module, expected: set[str]) -> None:
    assert left_out(part) == expected


def test_every_condition_is_about_a_check() -> None:
    assert set(CONDITIONS) <= {*CHECKS, *SCHEME_CHECKS}


def test_no_check_gives_up_by_itself() -> None:
    """A check returns what it measured or fails; one that may also give up could do so where it should fail."""
    for function in {*CHECKS.values(), *SCHEME_CHECKS.values()}:
        assert "Skipped" not in inspect.getsource(function), function.__name__


class CutOff(Linear):
    """Without parameters, and its output is cut off from its input: the slope is 1, autograd says 0."""

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        if d_in < 1 or d_in != d_out:
            raise ValueError(f"CutOff: d_in and d_out must be equal and positive, not {d_in} and {d_out}.")

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_a_part_that_nothing_can_be_differentiated_through_fails() -> None:
    """It used to count as one to which the check does not apply."""
    (result,) = check(CutOff, {"d_in": 8, "d_out": 8}, only=("gradient_is_true",))
    assert not result.passed
    assert "by finite differences, 0 by autograd" in result.detail
