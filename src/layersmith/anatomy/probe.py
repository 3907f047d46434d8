"""A small input for a model, to look at it with; and a small input for a module, to tell a norm by what it does."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.data.windows import vocabulary
from layersmith.errors import UserError

BATCH, TOKENS = 2, 8
#: Height and width of a picture for a model that takes any.
_PIXELS = 64
#: Names for the number of bands of a spectrogram, and for the token that a decoder starts with.
_BANDS = ("input_feat_per_channel", "feature_projection_input_dim", "num_mel_bins")
_STARTS = ("decoder_start_token_id", "bos_token_id", "pad_token_id")


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
        inputs["input_ids"] = _token_ids(model, batch, tokens, random)
        if _needs_pictures(model):
            inputs["pixel_values"] = _pictures(config, batch, random)
    elif main == "pixel_values":
        inputs["pixel_values"] = _pictures(config, batch, random)
    elif main in ("input_values", "input_features"):
        inputs[main] = _sound(model, batch, tokens, random)
    else:
        raise _unknown(model)
    if getattr(config, "is_encoder_decoder", False) and accepts(model, "decoder_input_ids"):
        inputs["decoder_input_ids"] = _token_ids(model, batch, tokens, random)
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs["use_cache"] = False
    return {k: _placed(v, where, dtype) for k, v in inputs.items()}


def with_decoder_ids(model: nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch, for an encoder-decoder with something to decode: made by the model's own shift of the input if it
    reads text, otherwise the start token alone. A batch that has decoder ids (or any other model's) is returned as is.
    """
    config = getattr(model, "config", None)
    given = {"decoder_input_ids", "decoder_inputs_embeds", "labels"} & batch.keys()
    if given or not getattr(config, "is_encoder_decoder", False) or not accepts(model, "decoder_input_ids"):
        return batch
    start = next((t for n in _STARTS if isinstance(t := getattr(config, n, None), int)), 0)
    if "input_ids" not in batch:
        first = next(t for t in batch.values() if isinstance(t, Tensor))
        return {**batch, "decoder_input_ids": torch.full((len(first), 1), start, device=first.device)}
    ids = batch["input_ids"]
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    shifted = ids.roll(1, dims=1).index_fill(1, torch.zeros(1, dtype=torch.long, device=ids.device), start)
    return {**batch, "decoder_input_ids": shifted if shift is None else shift(labels=ids)}


def accepts(model: nn.Module, name: str) -> bool:
    """Whether `forward` takes this keyword: by name, or as a wrapper that hands all of its arguments on."""
    parameters = inspect.signature(model.forward).parameters
    hands_on = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters.values())
    return name in parameters or hands_on


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
    try:
        once, twice = module(x).float(), module(2 * x).float()
    except (TypeError, AttributeError, RuntimeError, ValueError):
        return False  # it takes or returns more than the stream: a block whose sublayers were taken out
    if once.shape != x.shape or not once.isfinite().all():
        return False
    close = 1e-2 * float(once.abs().max())
    gains = any(p.shape == (width,) for p in module.parameters())
    scale_free = torch.allclose(twice, once, rtol=0, atol=close)
    linear = torch.allclose(twice, 2 * once, rtol=0, atol=2 * close)
    return not linear and (scale_free or gains)


def _token_ids(model: nn.Module, batch: int, tokens: int, random: torch.Generator) -> Tensor:
    # Ids in the upper half of the vocabulary: special tokens (padding among them) are nearly always in front.
    words = vocabulary(model)
    if words is None:
        raise _unknown(model)
    config: Any = model.config.get_text_config()  # type: ignore[union-attr, operator]
    words = min(words, getattr(config, "vocab_size", None) or words)
    ids = torch.randint(words // 2, words, (batch, tokens), generator=random, device="cpu")
    for special in ("pad_token_id", "image_token_id", "image_token_index"):
        taken = getattr(model.config, special, getattr(config, special, None))
        ids = torch.where(ids == taken, ids - 1, ids) if isinstance(taken, int) else ids
    return ids


def _needs_pictures(model: nn.Module) -> bool:
    """Whether a reader of text is one half of a pair (CLIP). A writer of text (LLaVA) runs without a picture."""
    return (
        "pixel_values" in inspect.signature(model.forward).parameters
        and hasattr(model.config, "vision_config")
        and not model.can_generate()  # type: ignore[operator]
    )


def _pictures(config: Any, batch: int, random: torch.Generator) -> Tensor:
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or _PIXELS  # SegFormer takes any size
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(vision, "num_channels", None) or 3
    return torch.randn(batch, channels, height, width, generator=random, device="cpu")


def _sound(model: nn.Module, batch: int, tokens: int, random: torch.Generator) -> Tensor:
    """A waveform long enough for `tokens` frames, or a spectrogram in the layout of the config."""
    config: Any = model.config
    if getattr(config, "conv_kernel", None) and getattr(config, "conv_stride", None):
        samples = tokens
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        shape: tuple[int, ...] = (samples,)
    elif hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):
        shape = (config.num_mel_bins, 2 * config.max_source_positions)  # Whisper's second convolution has stride 2
    elif hasattr(config, "max_length") and hasattr(config, "num_mel_bins"):
        shape = (config.max_length, config.num_mel_bins)
    else:
        bands = next((b for n in _BANDS if isinstance(b := getattr(config, n, None), int)), None)
        if bands is None:
            raise _unknown(model)
        shape = (4 * tokens, bands)
    return torch.randn(batch, *shape, generator=random, device="cpu")


def _unknown(model: nn.Module) -> UserError:
    return UserError(
        f"layersmith does not know how to make the input {getattr(model, 'main_input_name', None)!r} of "
        f"{type(model).__name__}. Pass example={{...}}: the keyword arguments of one small forward call, with a batch "
        f"of 2."
    )


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
