"""What is no site, or none that may change: noted, locked or refused in words."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy import find_sites, swap
from layersmith.errors import UserError
from layersmith.ffn.zero import Zero
from tests.anatomy.families import BY_NAME
from tests.architectures.every import EVERY


def test_tokens_first_models_are_refused() -> None:
    model = tf.XLNetLMHeadModel(tf.XLNetConfig(vocab_size=96, d_model=32, n_layer=1, n_head=4, d_inner=48))
    with pytest.raises(UserError, match="tokens first"):
        find_sites(model)


def test_sequence_first_layers_are_refused() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=False)
    with pytest.raises(UserError, match="batch_first"):
        find_sites(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


class Loose(nn.Module):
    """A block whose feed-forward has its activation written out between two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_what_cannot_be_a_site_is_noted() -> None:
    anatomy = find_sites(Stack(Loose(), Loose()), example={"x": torch.randn(2, 6, 16)})
    assert [s.name for s in anatomy.of_kind("norm")] == ["layers.0.ffn_norm", "layers.1.ffn_norm"]
    assert not anatomy.of_kind("ffn")
    assert any("layers.1: a sublayer (ffn) is not a site" in note for note in anatomy.notes)


def test_a_dropped_block_is_noted() -> None:
    model = BY_NAME["llama"].model()
    with swap(model, {"layers.0": Zero(32)}):
        anatomy = find_sites(model)
    assert anatomy.blocks == {"": ("model.layers.1",)}
    assert any(note.startswith("model.layers.0: stands among the blocks") for note in anatomy.notes)


def test_a_block_that_stands_twice_is_locked_but_its_sublayers_are_not() -> None:
    layer = open_layer()
    anatomy = find_sites(Stack(layer, layer), example={"x": torch.randn(2, 6, 16)})
    assert anatomy.site("layers.0").locked
    assert anatomy.site("layers.0.ffn").calls == 2
    assert not anatomy.site("layers.0.ffn").locked


def open_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True).eval()


def test_a_layer_that_starts_at_zero_is_judged_by_its_operations() -> None:
    layer = open_layer()
    nn.init.zeros_(layer.self_attn.out_proj.weight)
    nn.init.zeros_(layer.linear2.weight)
    anatomy = find_sites(Stack(layer), example={"x": torch.randn(2, 6, 16)})
    assert [s.role for s in anatomy.in_block("layers.0")] == ["attn_norm", "attn", "ffn_norm", "ffn"]


def test_no_residual_blocks() -> None:
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    with pytest.raises(UserError) as caught:
        find_sites(plain, example={"input": torch.randn(2, 6, 8)})
    message = str(caught.value)
    assert "No residual blocks" in message
    assert "2 matrix products" in message
    assert "1 module lists" in message
    assert "Not found" in message


def test_a_block_without_its_sublayers_is_no_norm() -> None:
    """Two norms are left in it, so it does what a norm does; but it cannot be called like one."""
    model = EVERY["bart"].model()
    with swap(model, {"encoder.layers.1.attn": Zero(32), "encoder.layers.1.ffn": Zero(32)}):
        anatomy = find_sites(model)
    assert "encoder.layers.1" not in [s.name for s in anatomy.of_kind("block")]
    assert not [s.name for s in anatomy.of_kind("norm") if s.modules == ("model.encoder.layers.1",)]


def test_a_model_with_unknown_inputs_asks_for_an_example() -> None:
    with pytest.raises(UserError, match="example="):
        find_sites(nn.Linear(4, 4))


@pytest.mark.parametrize("where", ["weights", "config"])
def test_a_model_that_yields_nan_is_refused(where: str) -> None:
    """It used to end in an error of torch's; kinds and causality read off NaN would be made up."""
    model = BY_NAME["llama"].model()
    if where == "config":
        for module in model.modules():
            if hasattr(module, "variance_epsilon"):
                module.variance_epsilon = float("nan")
    else:
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="yields NaN"):
        find_sites(model)
