"""What no run could mean is refused by `check`, in one sentence, for callers of Python as for the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layersmith.errors import UserError
from layersmith.refitting.options import RefitConfig, check


@pytest.fixture
def config(tmp_path: Path) -> RefitConfig:
    return RefitConfig(budget={"latency": 0.75}, out=tmp_path / "new")


def test_the_edges_of_what_is_allowed_pass_and_nothing_is_written(config: RefitConfig, tmp_path: Path) -> None:
    check(config)
    check(replace(config, distill_steps=0, heal_tokens=0, seed=0, effort=0.01, workers=1, budget={"kv": 1.0}))
    check(replace(config, budget={"kv": 1, "params": np.float32(0.5)}, effort=1, heal_lr=None, seed=np.int64(3)))
    check(replace(config, methods=["width", "drop"], sites=["layers.*.ffn"], device="cuda:1", at="decode=1x128"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": []}, "sites must be a list of at least one name"),
        ({"sites": ["layers.0.ffn", ""]}, "sites must be a list of at least one name"),
        ({"sites": "layers.0.ffn"}, "sites must be a list"),
        ({"methods": []}, "methods must be a list of at least one name"),
        ({"methods": ["widht"]}, "Did you mean 'width'"),
        ({"distill_steps": -1}, "distill_steps must be 0 or more"),
        ({"heal_tokens": -1}, "heal_tokens must be 0 or more"),
        ({"heal_lr": 0.0}, "healing rate"),
        ({"heal_adapter": "loar"}, "Did you mean 'lora'"),
        ({"heal_adapter": "lora:0"}, "rank of an adapter is a whole number from 1"),
        ({"heal_adapter": "lora:"}, "rank of an adapter is a whole number from 1"),
        ({"heal_adapter": "adapter_bias:4"}, "has no rank"),
        ({"heal_adapter": 4}, "heal_adapter must be a text"),
        ({"heal_adapter": "lora", "heal_tokens": 0}, "leave out heal_adapter, or heal_tokens"),
        ({"effort": float("nan")}, "effort must lie between"),
        ({"seed": -1}, "seed must be"),
        ({"workers": 0}, "at least 1"),
        ({"at": "prefill"}, "PHASE=BATCHxTOKENS"),
        ({"data": "stdlb"}, "Did you mean 'stdlib'"),
        ({"device": "gpu"}, "is not a device"),
        ({"reuse": Path("nothing")}, "holds no layersmith run"),
        ({"out": Path("/dev/null/x")}, "/dev/null is not a folder"),
        ({"budget": {}}, "A budget is needed"),
        ({"at": None}, "at must be a text, not None"),
        ({"data": 5}, "data must be a text, not 5"),
        ({"device": 0}, "device must be a text"),
        ({"text_column": ["a"]}, "text_column must be a text"),
        ({"methods": [1]}, "methods must be a list of at least one name"),
        ({"sites": [None]}, "sites must be a list of at least one name"),
        ({"budget": ["latency"]}, "A budget is needed"),
        ({"budget": {"latency": "0.75"}}, "latency='0.75' must be a share"),
        ({"budget": {"params": True}}, "params=True must be a share"),
        ({"effort": "0.1"}, "effort must be a number, not '0.1'"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"workers": None}, "workers must be a whole number"),
        ({"heal_tokens": True}, "heal_tokens must be a whole number"),
        ({"heal_lr": "fast"}, "heal_lr must be a number"),
        ({"budget": {"latencty": 0.5}}, "Did you mean 'latency'"),
    ],
)
def test_one_wrong_option_is_refused_by_name(config: RefitConfig, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        check(replace(config, **change))
    assert "\n" not in str(refused.value)
