"""The suite has teeth: each planted fault fails exactly the checks that are about it; the healthy twins pass all."""

from __future__ import annotations

import pytest

from layersmith.check import CHECKS, check
from layersmith.contract import Operator
from tests.check import broken_parts as parts

CONFIG = {"d_model": 16}

FAULTS: dict[type[Operator], set[str]] = {
    parts.CrossToken: {"token_wise"},
    parts.BatchLeak: {"batch_invariance"},
    parts.DroppedGradient: {"gradient_reaches_parameters", "gradient_is_true"},
    parts.HalfGradient: {"gradient_is_true"},
    parts.WrongFlops: {"flops_counted"},
    parts.WrongParams: {"parameters_counted"},
    parts.WrongActive: {"active_parameters"},
    parts.UnsavedBuffer: {"state_dict_round_trip", "safetensors_round_trip"},
    parts.Unchecked: {"refuses_bad_sizes"},
    parts.ReadsValues: {"compiles"},
    parts.LosesBits: {"bfloat16", "autocast"},
    parts.Flattens: {"shapes"},
    parts.LongRunsDiffer: {"odd_lengths"},
    parts.NeedsTokens: {"no_tokens"},
    parts.CopiesItself: {"deep_copy", "flops_counted", "active_parameters"},
    parts.AnyChoice: {"refuses_unknown_choices"},
    parts.Swallows: {"plain_constructor", "spec_round_trip"},
    parts.FutureLeak: {"causal"},
    parts.MixerBatchLeak: {"batch_invariance"},
    parts.ForgetsCount: {"chunked", "step_by_step", "state_rows"},
    parts.IgnoresMask: {"padding_invariance", "padded_decode"},
    parts.IgnoresMaskInState: {"padded_decode"},
    parts.WrongStateBytes: {"state_bytes"},
    parts.BatchLast: {"state_rows"},
    parts.TakesAnyState: {"refuses_state"},
}

#: Faults that disturb every check which compares two runs, so only the check about them is asked.
WIDE_FAULTS: dict[type[Operator], str] = {
    parts.ForeignSeed: "deterministic",
    parts.NoisyEvaluation: "deterministic",
    parts.OverwritesInput: "input_untouched",
    parts.Uninitialised: "no_uninitialised_memory",
    parts.HalfInside: "dtypes",
}


def failures(part: type[Operator]) -> dict[str, str]:
    return {r.check: r.detail for r in check(part, CONFIG) if not r.passed}


@pytest.mark.parametrize("part", [parts.Healthy, parts.HealthyMixer, parts.Bidirectional], ids=lambda p: p.__name__)
def test_healthy_parts_pass(part: type[Operator]) -> None:
    assert failures(part) == {}


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(("part", "expected"), FAULTS.items(), ids=lambda p: getattr(p, "__name__", ""))
def test_a_fault_fails_exactly_the_checks_about_it(part: type[Operator], expected: set[str]) -> None:
    found = failures(part)
    assert set(found) == expected, found


@pytest.mark.parametrize(("part", "name"), WIDE_FAULTS.items(), ids=lambda p: getattr(p, "__name__", ""))
def test_a_wide_fault_fails_the_check_about_it(part: type[Operator], name: str) -> None:
    (result,) = check(part, CONFIG, only=(name,))
    assert not result.passed


def test_every_check_is_shown_to_fail() -> None:
    shown = set().union(*FAULTS.values()) | set(WIDE_FAULTS.values())
    # The base class of all parts refuses what JSON cannot hold, so no part can break that one; test_contract shows it.
    assert set(CHECKS) - shown == {"refuses_what_json_cannot_hold"}
