"""What a model takes and does, as far as measuring needs to know it; and inputs of a stated shape.

Cost does not depend on the content of dense inputs, so seeded random ones do for timing and counting. Quality is
never measured on them unless the model takes no text (and then the result says so).
"""

from __future__ import annotations

import inspect
import os
from typing import Any

from torch import Tensor, nn

from layersmith.anatomy import probe
from layersmith.anatomy.limits import runs_up_to
from layersmith.anatomy.probe import placement
from layersmith.data.windows import vocabulary
from layersmith.errors import UserError

__all__ = [
    "can_generate",
    "check_length",
    "check_memory",
    "config_of",
    "example_inputs",
    "is_causal_lm",
    "placement",
    "reads_text",
    "without_cache",
]


def example_inputs(model: nn.Module, batch: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """Keyword arguments for one forward pass over `batch` sequences of `tokens` tokens, on the model's device.

    An encoder-decoder gets `tokens` on both sides. A model of pictures or sound has the number of tokens its config
    says; `tokens` then holds for its decoder only.
    """
    if reads_text(model):
        check_length(model, tokens)
    check_memory(model, batch, tokens)
    if isinstance(model, nn.TransformerEncoder) and not getattr(model.layers[0].self_attn, "batch_first", True):
        raise UserError("This nn.TransformerEncoder takes its tokens in dimension 0. Build it with batch_first=True.")
    inputs = probe.example_inputs(model, batch, tokens, seed)
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}


def reads_text(model: nn.Module) -> bool:
    """Whether the model takes token ids."""
    return config_of(model) is not None and getattr(model, "main_input_name", "input_ids") == "input_ids"


def config_of(model: nn.Module) -> Any:
    """The Hugging Face config of a model; None for any other module."""
    return getattr(model, "config", None)


def can_generate(model: nn.Module) -> bool:
    """Whether the model writes tokens one by one, with a cache."""
    asked = getattr(model, "can_generate", None)  # of a wrapper too (PeftModel), which is no PreTrainedModel
    return callable(asked) and bool(asked())


def is_causal_lm(model: nn.Module) -> bool:
    """Whether the model predicts each next token of one running text (GPT-like; not an encoder-decoder)."""
    return can_generate(model) and not config_of(model).is_encoder_decoder


def without_cache(model: nn.Module) -> dict[str, bool]:
    """{"use_cache": False} for a model that might make a cache, {} for any other.

    Not only models that write make one: a Llama with a classifier's head, and one without a head, do it by default.
    """
    takes = "use_cache" in inspect.signature(model.forward).parameters
    return {"use_cache": False} if takes or can_generate(model) else {}


def check_length(model: nn.Module, tokens: int) -> None:
    """A UserError when the model has fewer positions than `tokens`. Rotary ones go on beyond its context."""
    limit = runs_up_to(model)
    if limit is not None and tokens > limit:
        raise UserError(
            f"{tokens} tokens are more than this model's {limit} positions. Use a shorter shape, for example "
            f"'prefill=1x{limit}'."
        )


def check_memory(model: nn.Module, batch: int, tokens: int) -> None:
    """A UserError when not even the outputs of a batch would fit into the memory of this machine.

    A model on an accelerator is asked for them: its library says so itself.
    """
    if placement(model)[0].type != "cpu" or not hasattr(os, "sysconf"):
        return
    width = vocabulary(model) if can_generate(model) else None
    needed = 4 * batch * tokens * (width or 1)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"{batch} x {tokens} tokens do not fit into memory: what comes out of the model for them takes at least "
            f"{needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f}. Use a smaller shape."
        )
