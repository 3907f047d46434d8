"""How long an input a model can take: the one place that knows.

No single config key says it. RoBERTa's 514 positions hold 512 tokens, because the first two rows of its table are
never used; MPT calls its limit `max_seq_len`; Whisper's decoder stops at `max_target_positions`; a Llama whose config
says nothing has no table at all. So every name is read, every position table is watched at work, mixers of ours that
hold weights for positions are asked, and the smallest answer counts.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layersmith.anatomy.probe import BATCH, TOKENS, example_inputs
from layersmith.anatomy.running import MODEL_FAILURES, evaluating
from layersmith.contract import Mixer

_READING = ("max_source_positions", "max_encoder_position_embeddings")
_WRITING = ("max_target_positions", "max_decoder_position_embeddings")
_EITHER = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length")

#: Model -> (what it states, what its tables have rows for).
_known: WeakKeyDictionary[nn.Module, tuple[list[int], list[int]]] = WeakKeyDictionary()


def longest_input(model: nn.Module) -> int | None:
    """How many tokens the model can take at most, on either side of an encoder-decoder; None when nothing limits it.

    For models of pictures and sound this is what their decoder can take. The first call runs a model that may have
    learned positions once, on a few tokens; the answer is kept for as long as the model lives.
    """
    stated, tables = _limits(model)
    return min([*stated, *tables], default=None)


def runs_up_to(model: nn.Module) -> int | None:
    """On how many tokens the model runs at all; None when nothing stops it.

    Rotary positions go on beyond those that a model was trained on. What a step costs there can be measured; what the
    model predicts there is worth little.
    """
    stated, tables = _limits(model)
    return min(tables if _is_rotary(model) else [*stated, *tables], default=None)


def _limits(model: nn.Module) -> tuple[list[int], list[int]]:
    if model not in _known:
        # A mixer that holds weights for its positions ends where a table does.
        held = [m.longest for m in model.modules() if isinstance(m, Mixer) and m.longest is not None]
        _known[model] = (_stated(model), [*_tables(model), *held])
    return _known[model]


def _is_rotary(model: nn.Module) -> bool:
    """Whether positions are angles that are computed as far as they are needed."""
    config = getattr(model, "config", None)
    return config is not None and bool(getattr(config.get_text_config(), "rope_parameters", None))


def _stated(model: nn.Module) -> list[int]:
    config = getattr(model, "config", None)
    if config is None:
        return []
    text = config.get_text_config()
    reads = getattr(model, "main_input_name", "input_ids") == "input_ids"
    names = (*_READING, *_WRITING, *_EITHER) if reads else _WRITING
    stated = [getattr(c, name, None) for c in (config, text) for name in names]
    return [value for value in stated if isinstance(value, int) and value > 0]


def _tables(model: nn.Module) -> list[int]:
    """Tokens that each table of learned positions has a row for."""
    watch = _Positions()
    words: Any = None
    with suppress(NotImplementedError, AttributeError):
        words = model.get_input_embeddings()  # type: ignore[operator]
    if not any(isinstance(m, nn.Embedding) and m is not words for m in model.modules()):
        return []  # nothing but words to look up: large models are not run for nothing
    with suppress(*MODEL_FAILURES):  # what cannot be run has no tables to watch; the caller's own run says why
        inputs = example_inputs(model)
        if "input_ids" in inputs or "decoder_input_ids" in inputs:
            with evaluating(model), watch:
                model(**inputs)
    return watch.found


class _Positions(TorchDispatchMode):
    """Watches look-ups: the rows a position table is asked for are consecutive, those of random tokens are not.

    found  for each such table, the rows from the first one asked for to the last one there is
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default:
            self._see(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _see(self, table: Tensor, rows: Tensor) -> None:
        per_text = rows.ndim == 1 or (rows.ndim == 2 and len(rows) in (1, BATCH))
        if per_text and rows.shape[-1] == TOKENS and not rows.is_meta:
            asked = rows.reshape(-1, TOKENS)[0].tolist()
            if asked == list(range(asked[0], asked[0] + TOKENS)):
                self.found.append(len(table) - asked[0])
