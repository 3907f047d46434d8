"""Seeded random inputs of a stated shape, for whatever a model takes: tokens, pictures, spectrograms or vectors.

Cost does not depend on the content of dense inputs, so random ones do for timing and counting. Quality is never
measured on them unless the model takes no text (and then the result says so).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layersmith.errors import UserError


def example_inputs(model: nn.Module, batch: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """Keyword arguments for one forward pass over `batch` sequences of `tokens` tokens, on the model's device.

    An encoder-decoder gets `tokens` on both sides. A model of pictures or sound has the number of tokens its config
    says; `tokens` then holds for its decoder only.
    """
    generator = torch.Generator().manual_seed(seed)
    device, dtype = placement(model)
    config = config_of(model)
    if config is None:
        if isinstance(model, nn.TransformerEncoder):
            width = _first_layer(model).linear1.in_features
            batch_first = _first_layer(model).self_attn.batch_first
            sequence = (batch, tokens, width) if batch_first else (tokens, batch, width)
            return {"src": torch.randn(sequence, generator=generator).to(device, dtype)}
        raise UserError(
            f"Cannot make example inputs for a {type(model).__name__}: it is neither a Hugging Face model (it has no "
            f"config) nor a torch.nn.TransformerEncoder."
        )
    check_length(model, tokens)

    def ids() -> Tensor:
        return torch.randint(0, config.vocab_size, (batch, tokens), generator=generator).to(device)

    name = getattr(model, "main_input_name", "input_ids")
    if name == "pixel_values":
        size: tuple[int, ...] = (batch, config.num_channels, *_pair(config.image_size))
    elif name == "input_features":
        size = (batch, config.num_mel_bins, 2 * config.max_source_positions)
    elif name == "input_ids":
        return {"input_ids": ids()} | ({"decoder_input_ids": ids()} if config.is_encoder_decoder else {})
    else:
        raise UserError(f"Cannot make example inputs for {type(model).__name__}: it takes {name!r}.")
    inputs = {name: torch.randn(size, generator=generator).to(device, dtype)}
    return inputs | ({"decoder_input_ids": ids()} if config.is_encoder_decoder else {})


def reads_text(model: nn.Module) -> bool:
    """Whether the model takes token ids."""
    return config_of(model) is not None and getattr(model, "main_input_name", "input_ids") == "input_ids"


def config_of(model: nn.Module) -> Any:
    """The Hugging Face config of a model; None for any other module."""
    return getattr(model, "config", None)


def can_generate(model: nn.Module) -> bool:
    """Whether the model writes tokens one by one, with a cache."""
    return isinstance(model, PreTrainedModel) and model.can_generate()


def is_causal_lm(model: nn.Module) -> bool:
    """Whether the model predicts each next token of one running text (GPT-like; not an encoder-decoder)."""
    return can_generate(model) and not config_of(model).is_encoder_decoder


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point dtype of the model's first floating-point parameter."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def check_length(model: nn.Module, tokens: int) -> None:
    """A UserError when the model has fewer positions than `tokens`."""
    limit = getattr(config_of(model), "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise UserError(
            f"{tokens} tokens are more than this model's {limit} positions. Use a shorter shape, for example "
            f"'prefill=1x{limit}'."
        )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _first_layer(model: nn.TransformerEncoder) -> Any:
    return model.layers[0]
