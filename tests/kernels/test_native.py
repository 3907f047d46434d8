"""The compiled CPU kernels: built by a command and never by themselves, three modes of use, and what goes wrong."""

import logging

import pytest
import torch

from layersmith.errors import UserError
from layersmith.kernels import native


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine on which nothing has been asked or built yet."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    native._load.cache_clear()
    yield monkeypatch
    native._load.cache_clear()


def test_built_kernels_are_used_whether_required_or_not(monkeypatch):
    native._load.cache_clear()
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")
    monkeypatch.setenv("LAYERSMITH_NATIVE", "require")
    native._load.cache_clear()
    assert native.loaded()
    assert torch._C._dispatch_has_kernel_for_dispatch_key("layersmith::rational", "CPU")
    native._load.cache_clear()


def test_off_uses_the_reference(fresh):
    fresh.setenv("LAYERSMITH_NATIVE", "off")
    assert not native.loaded()
    assert not native.serves(torch.zeros(2))


def test_an_unknown_mode_is_refused(fresh):
    fresh.setenv("LAYERSMITH_NATIVE", "yes")
    with pytest.raises(UserError, match=r"LAYERSMITH_NATIVE='yes' is unknown\. Set it to one of auto, off, require"):
        native.loaded()


def test_nothing_is_built_by_itself_and_that_is_said_once(fresh, tmp_path, caplog):
    fresh.setenv("LAYERSMITH_NATIVE", "auto")
    with caplog.at_level(logging.WARNING):
        assert not native.loaded()
        assert not native.serves(torch.zeros(2))
    assert not list(tmp_path.iterdir())
    (message,) = caplog.messages
    assert "run `layersmith compile`" in message


def test_what_is_required_and_not_built_is_refused(fresh):
    fresh.setenv("LAYERSMITH_NATIVE", "require")
    with pytest.raises(UserError, match="Run `layersmith compile` once"):
        native.loaded()


def test_without_a_compiler_nothing_can_be_built(fresh):
    fresh.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no C\+\+ compiler 'no-such-compiler'.*pip install ninja"):
        native.build()


def test_a_source_that_does_not_compile_is_named_by_its_first_error(fresh, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.cpp").write_text("int main() { return nothing; }\n")
    fresh.setattr(native, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"nothing.* was not declared|undeclared identifier"):
        native.build()
    assert not native.loaded(), "what was not built to its end is not used"


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
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.cpp").write_text("1")
    one = native._digest()
    (tmp_path / "a" / "a.cpp").write_text("2")
    assert native._digest() != one
    two = native._digest()
    (tmp_path / "a" / "a.h").write_text("3")
    assert native._digest() != two
