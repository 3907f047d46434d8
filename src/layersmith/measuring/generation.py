"""Greedy continuations of a few prompts: whether a changed model still writes what the original wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from layersmith.anatomy.limits import longest_input
from layersmith.measuring.inputs import placement

#: Without these an encoder-decoder does not know how to begin.
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


def continuations(model: nn.Module, prompts: Tensor, tokens: int = 32) -> Tensor:
    """Greedy continuation (prompts, tokens) of equally long prompts (prompts, T), not stopped by end-of-text.

    A model with a limited context must have room for T + tokens.
    """
    device, _ = placement(model)
    prompts = prompts.to(device)
    generator: Any = model
    with _plain_settings(generator):
        out = generator.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
            use_cache=True,
        )
    return out[:, -tokens:].cpu()


@contextmanager
def _plain_settings(model: Any) -> Iterator[None]:
    """Inside, nothing of the model's own generation settings holds but its special tokens.

    Penalties and suppressed tokens would change greedy search; a cache of another kind, strings to stop at or tokens to
    guess ahead need packages and arguments that are not there.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(before, name, None) for name in _SPECIAL})
    try:
        yield
    finally:
        model.generation_config = before


def room(model: nn.Module, prompt: int, tokens: int) -> tuple[int, int]:
    """As many tokens of prompt and continuation as asked for, or as fit into the model's context, half and half."""
    limit = longest_input(model)
    if limit is None or prompt + tokens <= limit:
        return prompt, tokens
    return min(prompt, limit // 2), min(tokens, limit - min(prompt, limit // 2))


def greedy_text(model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: Tensor, tokens: int = 32) -> str:
    """What the model writes greedily after one prompt (T,) of token ids."""
    return tokenizer.batch_decode(continuations(model, prompt.unsqueeze(0), tokens))[0]


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """Share of equal tokens, position by position, of two (prompts, tokens) continuations."""
    return float((ours == theirs).double().mean())
