"""The program run in this process, and stand-ins for what takes long."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from layersmith.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the program in this process: exit status, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["layersmith", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], Any]], None]:
    """Let `checkpoint.load(name)` be answered by a function of the name."""

    def install(load: Callable[[str], Any]) -> None:
        fake = ModuleType("layersmith.checkpoint")
        fake.load = lambda name, trust_remote_code=False, device=None, tell=None: load(name)
        monkeypatch.setitem(sys.modules, "layersmith.checkpoint", fake)

    return install


@pytest.fixture
def refits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the refit pipeline; holds what it was called with."""
    seen: dict[str, Any] = {}

    def refit(model: str, **settings: Any) -> SimpleNamespace:
        seen.update(settings, model=model)
        baseline = {"latency_ms": 40.0, "params": 100, "bytes": 400, "flops": 9, "kv_bytes": 0, "perplexity": 8.0}
        chosen = baseline | {"latency_ms": 30.0, "latency_ratio": 0.74, "divergence": 0.0123, "perplexity": 8.4}
        document = {
            "model": {"name": model, "architecture": "LlamaForCausalLM"},
            "export": "stock",
            "settings": {"budget": settings["budget"], "at": settings["at"]},
            "baseline": baseline,
            "chosen": {"measured": chosen, "meets_budget": True},
            "reload_max_abs_diff": 0.0,
        }
        return SimpleNamespace(to_json=lambda: document)

    fake = ModuleType("layersmith.refitting.pipeline")
    fake.refit = refit
    monkeypatch.setitem(sys.modules, "layersmith.refitting.pipeline", fake)
    return seen
