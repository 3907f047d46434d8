"""The layer of a Hugging Face cache that belongs to a replaced sublayer: its mixer's `State` and a count of tokens.

`generate` reads positions and mask sizes off the cache, often off layer 0 alone. So a sublayer that keeps nothing at
all (a dropped attention, a linear map) still has to count the tokens it has seen, or every later token would believe
it is the first. A recurrent state has no length either: only the count says how far it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, EncoderDecoderCache, StaticLayer

from layersmith.contract import Mixer, State
from layersmith.errors import UserError


@dataclass(frozen=True)
class PastCall:
    """One call of a mixer: how many tokens it read, and its state had it read only the first few of them."""

    tokens: int
    read: Callable[[int], State | None]


class StateLayer(CacheLayerMixin):
    """What one replaced sublayer keeps between two calls of the model.

    state   the mixer's State (every tensor has the batch as dimension 0), None for an operator without one
    mixer   the class of the mixer whose state it is
    tokens  how many tokens, padding included, have gone through
    layers  all layers of the cache, this one among them
    past    calls since `crop`, where the cache records the past

    Where decoding tries tokens and takes them back, transformers tells those layers to record the past that would lose
    it (sliding windows, convolutions). A layer of ours among them records its own.
    """

    is_sliding = False
    is_compileable = False
    supports_early_init = False

    def __init__(self, layers: Sequence[object] | None = None) -> None:
        super().__init__()
        self.state: State | None = None
        self.mixer: type[Mixer] | None = None
        self.tokens = 0
        self.layers: Sequence[object] = [self] if layers is None else layers
        self.records = any(getattr(layer, "record_past", False) for layer in self.layers)
        self.past: list[PastCall] = []

    def advance(self, tokens: int, state: State | None, mixer: type[Mixer] | None = None) -> None:
        """Remember the state of a mixer of that class after `tokens` more tokens."""
        self.state, self.mixer = state, mixer
        self.tokens += tokens
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, offset of the first key): masks are built as for attention that has kept everything."""
        return self.tokens + query_length, 0

    def get_max_length(self) -> int:
        """-1: no maximum."""
        return -1

    #: The same question as asked by transformers before 5.17.
    get_max_cache_shape = get_max_length

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]  # a plain attribute where it never changes
        return self.state is None or bool(self.past) or self._without_last(1) is not None

    def crop(self, tokens: int) -> None:
        """Forget the last -tokens tokens (transformers before 5.17 also passes the new length, a positive number)."""
        kept = max(self.tokens + tokens if tokens <= 0 else min(tokens, self.tokens), 0)
        if kept < self.tokens and self.state is not None:
            shorter = self._without_last(self.tokens - kept)
            if shorter is None and kept > 0:
                raise UserError(self._cannot_crop())
            self.state = shorter
        self.tokens = kept
        self.past.clear()

    def _without_last(self, tokens: int) -> State | None:
        """The state some tokens ago; None where nothing tells it, and where there was none."""
        if self.state is None or self.mixer is None or tokens >= self.tokens:
            return None
        shorter = self.mixer.without_last(self.state, self.tokens, tokens)
        if shorter is not None:
            return shorter
        for call in reversed(self.past):
            if tokens <= call.tokens:
                return call.read(call.tokens - tokens)
            tokens -= call.tokens
        return None

    def _cannot_crop(self) -> str:
        stuck = {i: layer.mixer for i, layer in enumerate(self.layers) if _is_stuck(layer)}
        places = ", ".join(map(str, stuck))
        kinds = ", ".join(sorted({mixer.__name__ for mixer in stuck.values() if mixer is not None}))
        return (
            f"The state of a replaced mixer cannot be rolled back by some tokens: those of layers {places} ({kinds}) "
            f"keep what no longer tells what it was before. Decoding methods that try tokens and take them back "
            f"(assisted or speculative generation, prompt look-up) do not work with this model; use greedy, sampled or "
            f"beam-search generation."
        )

    def reset(self) -> None:
        self.state = self.mixer = None
        self.past.clear()
        self.tokens = 0
        self.is_initialized = False

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.past.clear()  # of other sequences
        if self.state is not None:
            self.state = {name: t[indices.to(t.device)] for name, t in self.state.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.past.clear()
        if self.state is not None:
            self.state = {name: t.repeat_interleave(repeats, dim=0) for name, t in self.state.items()}

    def offload(self) -> None:
        """Nothing: a state is used at every step and stays on its device."""

    def prefetch(self) -> None:
        """Nothing: see `offload`."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise _not_keys_and_values()

    def update(self, key_states: Tensor, value_states: Tensor, *args: object) -> tuple[Tensor, Tensor]:
        raise _not_keys_and_values()


def state_layer(cache: Cache, layer_idx: int) -> StateLayer:
    """The `StateLayer` at that index of the cache, put there on first use.

    Of an `EncoderDecoderCache` this is a layer of the self-attention half.
    """
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    while len(cache.layers) <= layer_idx:  # a cache made without a config grows as layers report
        cache.layers.append(DynamicLayer())
    layer = cache.layers[layer_idx]
    if isinstance(layer, StateLayer):
        return layer
    if isinstance(layer, StaticLayer):
        # Masks for preallocated slots are only right while every layer has such slots.
        raise UserError(
            "This model has replaced sublayers whose states a static cache has no place for. Generate with the default "
            "cache, or pass cache_implementation='dynamic'."
        )
    if isinstance(layer, CacheLayerMixin) and layer.get_seq_length() > 0:
        raise UserError(
            f"Layer {layer_idx} of this cache was filled by another model (it holds keys and values, but the "
            f"sublayer there has been replaced). Start with an empty cache."
        )
    fresh = StateLayer(cache.layers)
    cache.layers[layer_idx] = fresh
    return fresh


def _is_stuck(layer: object) -> TypeGuard[StateLayer]:
    return isinstance(layer, StateLayer) and not layer.is_croppable


def _not_keys_and_values() -> UserError:
    return UserError(
        "This cache was filled by a model whose attention has been replaced here; it holds no keys and values. "
        "Start with an empty cache."
    )
