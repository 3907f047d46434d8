"""A small input for a model, to look at it with; and a small input for a module, to tell a norm by what it does."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.errors import UserError

BATCH, TOKENS = 2, 8


def example_inputs(model: nn.Module, batch: int = BATCH, tokens: int = TOKENS, seed: int = 0) -> dict[str, Any]:
    """Keyword arguments for one forward pass of a Hugging Face model or an `nn.TransformerEncoder`, on its device.

    Text is (batch, tokens) token ids, on both sides of an encoder-decoder; images and sound have the size the config
    states. The same for the same seed.
    """
    where, dtype = placement(model)
    random = torch.Generator().manual_seed(seed)
    if isinstance(model, nn.TransformerEncoder):
        width = model.layers[0].norm1.normalized_shape[-1]
        return {"src": torch.randn(batch, tokens, width, generator=random, device="cpu").to(where, dtype)}
    config = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is None or main is None:
        raise UserError(
            f"{type(model).__name__} is neither a Hugging Face model nor an nn.TransformerEncoder, so its inputs are "
            f"not known. Pass example={{...}}: the keyword arguments of one small forward call, with a batch of 2."
        )
    inputs: dict[str, Any] = {}
    if main == "input_ids":
        inputs["input_ids"] = _token_ids(config, batch, tokens, random)
    elif main == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        inputs["pixel_values"] = torch.randn(batch, config.num_channels, height, width, generator=random, device="cpu")
    elif main == "input_features" and hasattr(config, "max_source_positions"):
        frames = 2 * config.max_source_positions  # Whisper's second convolution has stride 2
        inputs["input_features"] = torch.randn(batch, config.num_mel_bins, frames, generator=random, device="cpu")
    else:
        raise UserError(
            f"layersmith does not know how to make the input {main!r} of {type(model).__name__}. Pass example={{...}}: "
            f"the keyword arguments of one small forward call, with a batch of 2."
        )
    accepted = inspect.signature(model.forward).parameters
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        inputs["decoder_input_ids"] = _token_ids(config, batch, tokens, random)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return {k: _placed(v, where, dtype) for k, v in inputs.items()}


@torch.no_grad()
def normalises(module: nn.Module, width: int) -> bool:
    """Whether a width-preserving module without matrix products is a norm rather than a scale, a dropout, ...

    A norm undoes a change of its input's size, wholly (LayerNorm, RMSNorm) or by saturating with a learned gain of
    that width (DyT). A scale doubles with its input.
    """
    where, dtype = placement(module)
    if any(p.dim() > 1 for p in module.parameters()):
        return False
    x = torch.randn(BATCH, TOKENS, width, generator=torch.Generator().manual_seed(0), device="cpu").to(where, dtype)
    once, twice = module(x).float(), module(2 * x).float()
    if once.shape != x.shape:
        return False
    close = 1e-2 * float(once.abs().max())
    gains = any(p.shape == (width,) for p in module.parameters())
    scale_free = torch.allclose(twice, once, rtol=0, atol=close)
    linear = torch.allclose(twice, 2 * once, rtol=0, atol=2 * close)
    return not linear and (scale_free or gains)


def _token_ids(config: Any, batch: int, tokens: int, random: torch.Generator) -> Tensor:
    # Ids in the upper half of the vocabulary: special tokens (padding among them) are nearly always in front.
    vocabulary = config.get_text_config().vocab_size
    ids = torch.randint(vocabulary // 2, vocabulary, (batch, tokens), generator=random, device="cpu")
    padding = getattr(config.get_text_config(), "pad_token_id", None)
    return ids if padding is None else torch.where(ids == padding, ids - 1, ids)


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the model's first floating-point parameter."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def _placed(item: Any, where: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(item, Tensor):
        return item
    return item.to(where, dtype) if item.is_floating_point() else item.to(where)
