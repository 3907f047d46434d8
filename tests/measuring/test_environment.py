import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

import layersmith
from layersmith.measuring import environment as measuring
from layersmith.measuring.environment import environment


def test_environment_is_json_and_names_what_matters() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["torch"] == torch.__version__
    assert found["layersmith"] == layersmith.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["cpu"]
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+modified)?", found["commit"])


def test_the_version_is_that_of_the_files_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable installation keeps on record the version it was made at."""
    monkeypatch.setattr(measuring, "version", lambda name: "0.0.1")
    assert environment()["layersmith"] == layersmith.__version__ != "0.0.1"
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in pyproject["project"], "stated in one place"
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "layersmith.__version__"}
