"""The Triton kernels: in the interpreter everywhere, and compiled where there is a CUDA device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layersmith.errors import UserError
from layersmith.kernels import gpu

CASES = Path(__file__).with_name("triton_cases.py")


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="the extra `triton` is not installed")
    done = subprocess.run(
        [sys.executable, str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1", "LAYERSMITH_NATIVE": "off"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "18 cases\n"


@pytest.mark.gpu
def test_compiled() -> None:
    from tests.kernels.triton_cases import every_case, large_cases

    assert every_case("cuda") == 18
    assert large_cases("cuda") == 8


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gr_kan", "poly_norm"])
def test_parts_on_cuda_use_them_and_equal_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from layersmith import catalogue

    torch.manual_seed(0)
    part = catalogue.build({"name": name, "d_model": 64, "d_hidden": 256}).cuda()
    x = torch.randn(3, 7, 64, device="cuda")
    results = []
    for served in (True, False):
        monkeypatch.setattr(gpu, "loaded", lambda served=served: served)
        own = x.clone().requires_grad_()
        y = part(own)
        results.append([y, *torch.autograd.grad(y.square().sum(), [own, *part.parameters()])])
    for got, reference in zip(*results, strict=True):
        torch.testing.assert_close(got, reference, rtol=1e-3, atol=1e-3)


def test_tensors_on_the_cpu_are_not_served() -> None:
    assert not gpu.serves(torch.zeros(3))


@pytest.mark.parametrize(
    ("mode", "found", "expected"), [("auto", True, True), ("auto", False, False), ("off", True, False)]
)
def test_modes(mode: str, found: bool, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERSMITH_NATIVE", mode)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: object() if found else None)
    assert gpu._load.__wrapped__() is expected


def test_require_without_triton_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERSMITH_NATIVE", "require")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install triton"):
        gpu._load.__wrapped__()
