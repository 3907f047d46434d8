"""Every compiled kernel has a case that times it, equal to what it is timed against, and a committed figure."""

from __future__ import annotations

import csv
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from layersmith.kernels import native, packed
from layersmith.linear.quantized import QuantizedLinear

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("kernels_cpu")
    finally:
        sys.path.remove(str(BENCHMARKS))


def compiled_operators() -> set[str]:
    sources = (ROOT / "src/layersmith/kernels").glob("*/*.cpp")
    return {name for path in sources for name in re.findall(r'm\.impl\("(\w+)"', path.read_text(encoding="utf-8"))}


def committed() -> list[dict[str, str]]:
    with (BENCHMARKS / "results/kernels_cpu.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_compiled_operator_has_a_case(bench: ModuleType) -> None:
    named = {name for case in bench.cases() for name in case.operators.split()}
    assert named == compiled_operators()


#: Faster than what runs in its place, but not than that compiled; so torch.compile is never given it.
NOT_WHEN_COMPILED = {"unpacked"}


def test_every_compiled_operator_has_a_committed_figure_that_it_wins() -> None:
    """At one shape at least, in one pass or in both; where it loses is told in benchmarks/README.md."""
    rows = committed()
    assert {name for row in rows for name in row["operator"].split()} == compiled_operators()
    for operator in compiled_operators():
        against = "against_reference" if operator in NOT_WHEN_COMPILED else "against_compile"
        found = [float(row[against]) for row in rows if operator in row["operator"].split()]
        assert min(found) < 1, operator


def test_a_kernel_that_loses_to_compiled_code_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    part = QuantizedLinear(64, 32, bits=8, group_size=16)
    args = (part.packed, part.scale_bits, part.zero_bits, 8)
    monkeypatch.setattr(packed, "_unpacked", lambda *args: args[0])
    monkeypatch.setattr(native, "loaded", lambda: True)
    assert packed.unpacked(*args) is not None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert packed.unpacked(*args) is None


def test_where_a_kernel_loses_is_told() -> None:
    told = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    for row in committed():
        if float(row["against_compile"]) > 1:
            assert f"`{row['operator'].split()[0]}`" in told, row


def test_a_kernel_is_timed_against_what_computes_the_same(bench: ModuleType) -> None:
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")
    for case in bench.cases():
        for backward in (False, True) if case.trained else (False,):
            ours = bench.step(case, case.kernel, backward, served=True)()
            theirs = bench.step(case, case.reference, backward, served=False)()
            for one, other in zip(ours, theirs, strict=True):
                _check_equal(one, other, f"{case.operators} at {case.at}")


def _check_equal(one: Any, other: Any, told: str) -> None:
    if not one.is_floating_point():  # numbers of rows, which the kernel may give in another order
        one, other = one.sort(-1).values, other.sort(-1).values
    assert one.shape == other.shape, told
    distance = (one - other).abs().max() / other.abs().max().clamp(min=1)
    assert distance < 1e-4, (told, distance)


@pytest.fixture(autouse=True)
def _kernels_serve_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "serves", native.serves)  # put back at the end, whatever the last step has set
    torch.manual_seed(0)
