"""Greedy continuations of a few prompts: whether a changed model still writes what the original wrote."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from layersmith.anatomy.limits import longest_input
from layersmith.measuring.inputs import placement


def continuations(model: nn.Module, prompts: Tensor, tokens: int = 32) -> Tensor:
    """Greedy continuation (prompts, tokens) of equally long prompts (prompts, T), not stopped by end-of-text.

    A model with a limited context must have room for T + tokens.
    """
    device, _ = placement(model)
    prompts = prompts.to(device)
    generator: Any = model
    # Every setting that changes greedy search is pinned: a model's own generation config may hold penalties.
    out = generator.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=0,
        use_cache=True,
    )
    return out[:, -tokens:].cpu()


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
