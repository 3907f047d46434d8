"""Greedy continuations of a few prompts: whether a changed model still writes what the original wrote."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layersmith.measure.inputs import placement


def continuations(model: nn.Module, prompts: Tensor, tokens: int = 32) -> Tensor:
    """Greedy continuation (prompts, tokens) of equally long prompts (prompts, T), end-of-text not allowed to stop it.

    A model with a limited context must have room for T + tokens.
    """
    device, _ = placement(model)
    prompts = prompts.to(device)
    # Every setting that changes greedy search is pinned: a model's own generation config may hold penalties.
    out = model.generate(
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


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """Share of equal tokens, position by position, of two (prompts, tokens) continuations."""
    return float((ours == theirs).double().mean())


def as_text(tokenizer: object, rows: Tensor | Sequence[Sequence[int]]) -> list[str]:
    """The rows of token ids as text, as the tokenizer writes it."""
    return [tokenizer.decode(row) for row in rows]
