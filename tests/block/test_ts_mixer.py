"""TSMixer against loops and the PatchTSMixer of transformers; without gates it is an MLP-Mixer."""

import math

import pytest
import torch
from transformers import PatchTSMixerConfig
from transformers.models.patchtsmixer.modeling_patchtsmixer import PatchTSMixerLayer

from layersmith import catalogue
from tests.block.small import D, block, tokens
from tests.mixer.by_steps import gelu

LAYER_NORM = {"name": "layer_norm"}


def mlp(rows: list[float], up, up_bias, down, down_bias) -> list[float]:
    hidden = [gelu(sum(w * r for w, r in zip(row, rows, strict=True)) + b) for row, b in zip(up, up_bias, strict=True)]
    return [sum(w * h for w, h in zip(row, hidden, strict=True)) + b for row, b in zip(down, down_bias, strict=True)]


def gated(rows: list[float], weight, bias) -> list[float]:
    scores = [sum(w * r for w, r in zip(row, rows, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    sizes = [math.exp(s) for s in scores]
    return [r * s / sum(sizes) for r, s in zip(rows, sizes, strict=True)]


@pytest.mark.oracle("ts_mixer")
@torch.no_grad()
def test_equals_loops():
    layer, x = block("ts_mixer", length=5), tokens(5, batch=1)
    inside = [p.tolist() for p in layer.mixer.tokens.parameters()]
    positions = layer.token_gate.weight[0].tolist(), layer.token_gate.bias[0].tolist()
    columns = [gated(mlp(c, *inside), *positions) for c in x[0].T.tolist()]
    z = x[0] + torch.tensor(columns, dtype=torch.double).T
    maps = [p.tolist() for p in layer.ffn.parameters()]
    gate = layer.channel_gate.weight.tolist(), layer.channel_gate.bias.tolist()
    rows = [gated(mlp(r, *maps), *gate) for r in z.tolist()]
    torch.testing.assert_close(layer(x)[0][0], z + torch.tensor(rows, dtype=torch.double), atol=1e-12, rtol=0)


@pytest.mark.oracle("ts_mixer")
@torch.no_grad()
def test_without_gates_it_is_an_mlp_mixer_in_a_usual_layer():
    layer, x = block("ts_mixer", length=7, gated=False, norm=LAYER_NORM), tokens()
    mixer = {"name": "mlp_mixer", "token_hidden": 14, "length": 7, "causal": False}
    ffn = {"name": "mlp", "d_hidden": 2 * D}
    series = block("series", norm=LAYER_NORM, mixer=mixer, ffn_norm=LAYER_NORM, ffn=ffn)
    series.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x)[0], series(x)[0])


@pytest.mark.oracle("ts_mixer")
@torch.no_grad()
def test_padding_takes_no_share_of_the_softmax():
    layer, x = block("ts_mixer", length=9, norm=LAYER_NORM), tokens(9)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0, 0], [0] * 9]).bool()
    y = layer(x, mask=mask)[0]
    torch.testing.assert_close(y[:1, mask[0]], layer(x[:1, mask[0]])[0])
    assert y.isfinite().all()


@pytest.mark.official("ts_mixer")
@torch.no_grad()
@pytest.mark.parametrize("gates", [True, False])
def test_equals_transformers(gates):
    torch.manual_seed(0)
    config = PatchTSMixerConfig(
        context_length=24, patch_length=4, patch_stride=4, d_model=12, expansion_factor=3, num_input_channels=5,
        norm_mlp="LayerNorm", gated_attn=gates, mode="common_channel", dropout=0.0,
    )  # fmt: skip
    theirs = PatchTSMixerLayer(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    ours = catalogue.build(
        {"name": "ts_mixer", "d_model": 12, "length": 6, "expansion": 3, "gated": gates, "norm": LAYER_NORM}
    )
    patch, feature = theirs.patch_mixer, theirs.feature_mixer
    ours.norm.load_state_dict(patch.norm.norm.state_dict())
    ours.ffn_norm.load_state_dict(feature.norm.norm.state_dict())
    inside = ours.mixer.tokens
    for own, their in zip(
        (inside.up, inside.up_bias, inside.down, inside.down_bias), patch.mlp.parameters(), strict=True
    ):
        own.copy_(their)
    ours.ffn.up.load_state_dict(feature.mlp.fc1.state_dict())
    ours.ffn.down.load_state_dict(feature.mlp.fc2.state_dict())
    if gates:
        ours.token_gate.weight.copy_(patch.gating_block.attn_layer.weight[None])
        ours.token_gate.bias.copy_(patch.gating_block.attn_layer.bias[None])
        ours.channel_gate.load_state_dict(feature.gating_block.attn_layer.state_dict())
    x = torch.randn(2, 5, 6, 12)
    want = theirs(x)
    torch.testing.assert_close(ours(x.flatten(0, 1))[0].view_as(want), want, atol=1e-5, rtol=0)


def test_longer_sequences_and_states_are_refused():
    layer = block("ts_mixer", length=4)
    with pytest.raises(ValueError, match="length=4"):
        layer(tokens(5))
    with pytest.raises(ValueError, match="state"):
        layer(tokens(4), {"k": torch.zeros(2, 1)})
