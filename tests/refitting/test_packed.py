"""A model handed over with its weights packed is refused in one paragraph, before anything is stored.

compressed-tensors leaves a linear map without a `weight` until it is first run; the stand-ins here do the same.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layersmith.checkpoint import check_plain
from layersmith.errors import UserError
from layersmith.refitting.pipeline import refit
from tests.architectures.every import EVERY
from tests.refitting.conftest import tiny_llama


class PackedMap(nn.Module):
    """A linear map in int8, unpacked into a weight of its own when it is first run."""

    def __init__(self, dense: nn.Linear):
        nn.Module.__init__(self)
        scale = dense.weight.detach().abs().amax(1, keepdim=True) / 127
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.register_buffer("packed", (dense.weight / scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        if "weight" not in self._parameters:
            self.weight = nn.Parameter(self.packed * self.scale, requires_grad=False)
        return nn.functional.linear(x, self.weight)


class PackedLinear(PackedMap, nn.Linear):
    """The same, as a linear map to all who ask."""


def packed(kind: str) -> Any:
    model = tiny_llama(layers=2)
    if kind == "it says so":
        model.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method="compressed-tensors"))
        return model
    made = PackedLinear if kind == "no weight" else PackedMap
    for layer in model.model.layers:
        layer.mlp.up_proj = made(layer.mlp.up_proj)
    return model


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no weight", r"model\.layers\.0\.mlp\.up_proj \(2 such"),
        ("another class", r"model\.layers\.0\.mlp\.up_proj\.weight \(2 such"),
        ("it says so", "compressed-tensors"),
    ],
)
def test_packed_weights_are_refused_at_once(kind: str, said: str, text: str, tokenizer: Any, tmp_path: Path) -> None:
    given = {"tokenizer": tokenizer, "data": text, "progress": False}
    with pytest.raises(UserError, match=said) as refused:
        refit(packed(kind), budget={"params": 0.9}, out=tmp_path / "new", **given)
    assert "unquantized" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "mixtral", "mamba", "vit", "whisper"])
def test_ordinary_models_pass_and_stay_as_they_are(name: str) -> None:
    model = EVERY[name].model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    check_plain(model)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
