"""One tiny model of each architecture that people bring: how it is built, and what it is fed.

`EVERY` is what the tests run over. An architecture says how its model is made and whether it writes text; the inputs
are those that the anatomy makes itself, because that is what a user gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from torch import nn

WORDS = 96


@dataclass(frozen=True)
class Architecture:
    """`model_class(config_class(**settings))`, on tensors of `attention` implementation (None: the default)."""

    name: str
    model_class: str
    config_class: str
    settings: Mapping[str, Any]
    attention: str | None = None

    def model(self) -> Any:
        """The model, seeded, in evaluation mode; weights larger than at a start, so that each part matters."""
        torch.manual_seed(0)
        config = getattr(tf, self.config_class)(**self.settings)
        if self.attention:
            config._attn_implementation = self.attention
        model: nn.Module = getattr(tf, self.model_class)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1 and parameter.requires_grad:  # tables of sines are made anew at loading
                    parameter.mul_(3.0)
        return model


SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT: dict[str, Any] = SPECIAL | {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED: dict[str, Any] = TEXT | {"num_key_value_heads": 2}
WIDE: dict[str, Any] = GROUPED | {"head_dim": 16}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}


def causal(name: str, prefix: str, settings: Mapping[str, Any], **options: Any) -> Architecture:
    return Architecture(name, f"{prefix}ForCausalLM", f"{prefix}Config", settings, **options)


def table(*rows: Architecture) -> dict[str, Architecture]:
    return {row.name: row for row in rows}
