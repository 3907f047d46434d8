"""What schemes do to a `TransformerLM`: find its linear maps by role, draw weights, set residual factors and norms.

Every change that is no weight is written to the model's config too, so that a saved model loads as it was.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn

from layersmith import catalogue
from layersmith.block.series import NormedLinear, Series
from layersmith.errors import UserError
from layersmith.model import TransformerLM

Factors = tuple[float, float]


def reference(model: nn.Module, scheme: str) -> TransformerLM:
    """The model, if it is one that schemes can change; a UserError otherwise."""
    if not isinstance(model, TransformerLM):
        raise UserError(
            f"{scheme} changes a layersmith TransformerLM, whose layers and residual factors it knows; this is a "
            f"{type(model).__name__}. Build one with layersmith.model.TransformerConfig."
        )
    config = model.config
    plain = all(isinstance(layer, Series) and layer.first_ffn is None for layer in model.layers)
    if config.loops > 1 or len(config.steps) > len(config.layers) or not plain:
        raise UserError(
            f"{scheme} is derived for layers of one mixer and one feed-forward that are run through once; this model "
            f"has macaron layers, or loops, or shares layers, or has blocks of another kind."
        )
    return model


def layers_of(model: TransformerLM) -> list[Series]:
    """The model's layers, with their type."""
    return cast("list[Series]", list(model.layers))


def attention_maps(model: TransformerLM, index: int) -> dict[str, nn.Linear]:
    """The maps "q", "k", "v", "o" of the layer's mixer; UserError for a mixer without them."""
    mixer = layers_of(model)[index].mixer
    return _maps(mixer, ("q", "k", "v", "o"), f"the mixer of layer {index}")


def ffn_maps(model: TransformerLM, index: int) -> dict[str, nn.Linear]:
    """The maps "up", "down" of the layer's feed-forward, "gate" too if it has one; UserError without them."""
    ffn = layers_of(model)[index].ffn
    names = ("gate", "up", "down") if hasattr(ffn, "gate") else ("up", "down")
    return _maps(ffn, names, f"the ffn of layer {index}")


def plain_ffn_maps(model: TransformerLM, index: int) -> dict[str, nn.Linear]:
    """As `ffn_maps`, for schemes whose formulas hold for one hidden layer without a gate."""
    found = ffn_maps(model, index)
    if "gate" in found:
        raise UserError(f"The ffn of layer {index} is gated; this scheme is derived for a plain one, such as 'mlp'.")
    return found


@torch.no_grad()
def draw(linear: nn.Linear, variance: float, bias_variance: float = 0.0) -> None:
    """Normal weights of this variance, and biases of theirs."""
    nn.init.normal_(linear.weight, std=math.sqrt(variance))
    if linear.bias is not None:
        nn.init.normal_(linear.bias, std=math.sqrt(bias_variance)) if bias_variance else nn.init.zeros_(linear.bias)


def xavier(linear: nn.Linear, gain: float = 1.0) -> None:
    """Normal weights of variance gain^2 * 2 / (fan_in + fan_out), biases 0."""
    draw(linear, gain**2 * 2 / (linear.in_features + linear.out_features))


def set_residual(model: TransformerLM, index: int, mixer: Factors, ffn: Factors) -> None:
    """Use (skip, branch) factors at the two sums of a layer: skip * x + branch * f(x)."""
    layer = layers_of(model)[index]
    layer.mixer_factors, layer.ffn_factors = mixer, ffn
    _configure(model, index, "residual", {"mixer": list(mixer), "ffn": list(ffn)})


def set_norm_position(model: TransformerLM, position: str) -> None:
    """ "post" has no norm before the output map; "pre" has one, of the kind of the first layer's norm."""
    config = model.config
    config.norm_position = position
    for layer in layers_of(model):
        layer.post = position == "post"
        layer._config["norm_position"] = position
    if position == "post":
        config.final_norm, model.final_norm = None, nn.Identity()
    elif config.final_norm is None and config.layers and config.layers[0]["norm"] is not None:
        config.final_norm = {k: v for k, v in config.layers[0]["norm"].items() if k != "d_model"}
        norm = catalogue.build({**config.final_norm, "d_model": config.d_model})
        model.final_norm = norm.to(model.embed_tokens.weight).train(model.training)


def add_sub_norms(model: TransformerLM, spec: dict[str, Any]) -> None:
    """Put a norm of this spec before every output map of mixers and feed-forwards, once."""
    for index, layer in enumerate(layers_of(model)):
        if model.config.layers[index].get("sub_norm") is None:
            layer.add_sub_norms(spec)
            _configure(model, index, "sub_norm", dict(spec))


def _configure(model: TransformerLM, index: int, key: str, value: Any) -> None:
    # New dicts: configs may be written with one dict for all layers, and are the caller's.
    layers = list(model.config.layers)
    layers[index] = {**layers[index], key: value}
    model.config.layers = layers
    layers_of(model)[index]._config[key] = value  # what the layer says of itself


def _maps(part: nn.Module, names: tuple[str, ...], place: str) -> dict[str, nn.Linear]:
    found = {}
    for name in names:
        linear = getattr(part, name, None)
        linear = linear.linear if isinstance(linear, NormedLinear) else linear
        if not isinstance(linear, nn.Linear):
            raise UserError(
                f"{place} ({type(part).__name__}) has no linear map {name!r}, whose initial weights this scheme sets. "
                f"Use softmax_attention or linear_attention, and mlp or glu."
            )
        found[name] = linear
    return found
