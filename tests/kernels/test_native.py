"""The loader of compiled CPU kernels: its three modes, and what it says when there is no compiler."""

import logging

import pytest
import torch

from layersmith.errors import UserError
from layersmith.kernels import native


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A loader that has not been asked yet, and no build to be found."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    native._load.cache_clear()
    yield monkeypatch
    native._load.cache_clear()


def test_require_builds_the_kernels(monkeypatch):
    monkeypatch.setenv("LAYERSMITH_NATIVE", "require")
    native._load.cache_clear()
    try:
        assert native.loaded()
    finally:
        native._load.cache_clear()
    assert torch._C._dispatch_has_kernel_for_dispatch_key("layersmith::rational", "CPU")


def test_off_never_builds(fresh, tmp_path):
    fresh.setenv("LAYERSMITH_NATIVE", "off")
    assert not native.loaded()
    assert not native.serves(torch.zeros(2))
    assert not list(tmp_path.iterdir())


def test_an_unknown_mode_is_refused(fresh):
    fresh.setenv("LAYERSMITH_NATIVE", "yes")
    with pytest.raises(UserError, match=r"LAYERSMITH_NATIVE='yes' is unknown\. Set it to one of auto, off, require"):
        native.loaded()


def test_without_a_compiler_auto_says_so_once_and_goes_on(fresh, caplog):
    fresh.setenv("LAYERSMITH_NATIVE", "auto")
    fresh.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        assert not native.loaded()
        assert not native.serves(torch.zeros(2))
    assert caplog.messages == [
        "no compiled kernels, the slower reference paths are used (there is no C++ compiler 'no-such-compiler')"
    ]


def test_without_a_compiler_require_says_what_to_do(fresh):
    fresh.setenv("LAYERSMITH_NATIVE", "require")
    fresh.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no C\+\+ compiler 'no-such-compiler'.*pip install 'layersmith\[native\]'"):
        native.loaded()


def test_a_source_that_does_not_compile_is_named_by_its_first_error(fresh, tmp_path):
    broken = tmp_path / "csrc"
    broken.mkdir()
    (broken / "broken.cpp").write_text("int main() { return nothing; }\n")
    fresh.setattr(native, "SOURCES", broken)
    fresh.setenv("LAYERSMITH_NATIVE", "require")
    with pytest.raises(UserError, match=r"nothing.* was not declared|undeclared identifier"):
        native.loaded()


@pytest.mark.parametrize(
    ("tensor", "served"),
    [
        (torch.zeros(3, 2), True),
        (torch.zeros(0, 2), True),
        (torch.zeros(3, 2).T, False),
        (torch.zeros(3, dtype=torch.double), False),
        (torch.zeros(3, dtype=torch.bfloat16), False),
        (torch.zeros(3, device="meta"), False),
    ],
)
def test_serves_contiguous_float32_on_the_cpu_only(monkeypatch, tensor, served):
    monkeypatch.setattr(native, "_load", lambda: True)
    assert native.serves(tensor) is served
    assert native.serves(torch.zeros(1), tensor) is served


def test_a_build_is_named_by_its_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    (tmp_path / "a.cpp").write_text("1")
    one = native._digest()
    (tmp_path / "a.cpp").write_text("2")
    assert native._digest() != one
