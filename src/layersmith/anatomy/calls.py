"""How the code around a sublayer calls it, and the adapters that let one of our operators be called that way.

A feed-forward takes a tensor and returns one: nothing to adapt. Attention modules and whole blocks are called with
masks, caches, positions and flags, and often return tuples. The `call` of an `Edit` writes such a convention down:

    {}                                     one tensor in, one tensor out
    {"style": "attention",                 "attention" adds nothing; "block" adds the residual, y = x + operator(x)
     "arguments": ["hidden_states", ...],  names of the replaced module's positional parameters, in order
     "outputs": 2,                         0: returns the tensor; n: a tuple of n that starts with it
     "list": true,                         these n come as a list (left out for a tuple)
     "layer_idx": 3}                       which layer of the cache is this sublayer's

    {"style": "mixer"}                     inside a block of ours, which calls its mixer by the contract

What an adapter makes of a call: the padding mask goes to a mixer as bool (B, T), the layer of the cache holds its
state, everything else (rotary tables, position ids, flags) is not needed and dropped. A mask that hides more than
padding, the future or what lies outside a window (packed documents, say) is not handed on: operators know none.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from layersmith.anatomy.cache import PastCall, state_layer
from layersmith.contract import Block, Mixer, State, Streaming
from layersmith.errors import UserError

STYLES = ("attention", "block", "mixer")
_MASKS = ("attention_mask", "mask")
#: torch's own layers say where padding is: True, or -inf, at padding.
_PADDING = ("key_padding_mask", "src_key_padding_mask")
_OTHER_SEQUENCE = ("key_value_states", "encoder_hidden_states")
#: What follows the tensor in a tuple. T5 hands its relative position bias from block to block this way, RWKV its
#: recurrent state; an adapter passes on what it was given. Everything else that models return there (attention
#: weights) is None.
_PASSED_ON = ("position_bias", "encoder_decoder_position_bias", "state")


def convention(module: nn.Module, style: str, layer_idx: int, outputs: int, as_list: bool = False) -> dict[str, Any]:
    """The `call` with which a replacement of `module` has to be wrapped."""
    if isinstance(module, AttentionCall):  # replaced before: what matters is how the original was called
        names = module.arguments
    else:
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(module.forward).parameters.values()
        names = [p.name for p in parameters if p.kind in positional]
    listed = {"list": True} if as_list else {}
    return {"style": style, "arguments": names, "outputs": outputs, "layer_idx": layer_idx, **listed}


def takes_more(module: nn.Module) -> bool:
    """Whether the module must be given more than its hidden states (the height and width of a picture, say)."""
    if isinstance(module, AttentionCall):
        return True
    parameters = inspect.signature(module.forward).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in plain and p.default is inspect.Parameter.empty for p in parameters) > 1


def wrap(module: nn.Module, call: dict[str, Any]) -> nn.Module:
    """The module, callable as `call` says; the module itself for {}."""
    if not call:
        return module
    unknown = sorted(set(call) - {"style", "arguments", "outputs", "list", "layer_idx"})
    if unknown or call.get("style") not in STYLES:
        raise UserError(
            f"This calling convention is not known: {call!r}. It is either empty or has a 'style' out of {STYLES}, "
            f"and optionally 'arguments', 'outputs', 'list' and 'layer_idx'."
        )
    if call["style"] == "mixer":
        return MixerCall(module)
    adapter = AttentionCall if call["style"] == "attention" else BlockCall
    arguments = call.get("arguments", ["hidden_states", "attention_mask"])
    made = adapter(module, arguments, call.get("outputs", 0), call.get("layer_idx", 0))
    made.as_list = call.get("list", False)
    return made


class AttentionCall(nn.Module):
    """An operator called like a Hugging Face attention module: a `Mixer`, or anything token-wise.

    At a cross-attention site only token-wise operators can stand: no mixer of ours reads a second sequence.
    """

    #: `nn.TransformerEncoder` and its layers ask their attention this, to decide on a fused kernel that would bypass
    #: the operator. False keeps them from it; tensors are (batch, tokens, width) all the same.
    batch_first = False
    #: Whether the outputs come as a list.
    as_list = False

    def __init__(self, operator: nn.Module, arguments: list[str], outputs: int, layer_idx: int):
        super().__init__()
        self.operator = operator
        self.arguments, self.outputs, self.layer_idx = list(arguments), outputs, layer_idx

    def forward(self, *values: Any, **keywords: Any) -> Any:
        # Models pass whatever their own modules want. What is needed is picked out by name here; the rest is not
        # passed on to the operator.
        given = {**dict(zip(self.arguments, values, strict=False)), **keywords}
        x = values[0] if values else given[self.arguments[0]]
        crosses = any(given.get(name) is not None for name in _OTHER_SEQUENCE)
        y = self._across(x) if crosses else self._along(x, given)
        return self._returned(y, given, first_may_lack_bias=crosses)

    def _across(self, x: Tensor) -> Tensor:
        if isinstance(self.operator, Mixer | Block):
            raise UserError(
                f"{type(self.operator).__name__} reads one sequence and cannot stand at a cross-attention site, "
                f"which reads a second one. Token-wise operators (zero, constant, affine) can."
            )
        return self.operator(x)

    def _along(self, x: Tensor, given: dict[str, Any]) -> Tensor:
        # "past_key_values", "layer_past", "cache_params": the name does not matter.
        cache = next((value for value in given.values() if isinstance(value, Cache)), None)
        layer = None if cache is None else state_layer(cache, self.layer_idx)
        operator = self.operator
        if not isinstance(operator, Streaming):
            y = operator(x)
            if layer is not None:
                layer.advance(x.shape[1], None)
            return y
        if layer is not None and layer.state is None and not operator.streams:
            raise UserError(
                f"{type(operator).__name__} cannot continue from a state, so the model cannot generate with "
                f"a cache. Pass use_cache=False, or put a causal operator there."
            )
        if given.get("state") is not None:
            raise UserError(
                f"{type(operator).__name__} would have to continue from a state that this model keeps as "
                f"plain tensors of its own (RWKV does), which have no place for another mixer's. Pass "
                f"use_cache=False."
            )
        mask = next((given[name] for name in _MASKS if given.get(name) is not None), None)
        padding = next((given[name] for name in _PADDING if given.get(name) is not None), None)
        if padding is not None:
            mask = padding == 0
        real = None if mask is None else real_tokens(mask, x, 0 if layer is None else layer.tokens)
        before = None if layer is None else layer.state
        y, state = operator(x, before, real)
        if layer is not None:
            if layer.records:
                layer.past.append(self._past_call(x, before, real))
            keeper = operator.keeper
            settled = state if state is None or keeper is None else keeper.settled(state)
            layer.advance(x.shape[1], settled, None if keeper is None else type(keeper))
        return y

    def _past_call(self, x: Tensor, before: State | None, real: Tensor | None) -> PastCall:
        def read(tokens: int) -> State | None:
            return self.operator(x[:, :tokens], before, None if real is None else real[:, :tokens])[1]

        return PastCall(x.shape[1], read)

    def _returned(self, y: Tensor, given: dict[str, Any], first_may_lack_bias: bool) -> Any:
        if self.outputs == 0:
            return y
        if "position_bias" in given and given["position_bias"] is None and not first_may_lack_bias:
            raise UserError(
                "The sublayer replaced here computes the relative position bias that all later blocks of its stack "
                "use (the first self-attention of T5 and its relatives). It cannot be replaced or dropped; "
                "replace those of later blocks."
            )
        extra = [given.get(name) for name in _PASSED_ON if name in self.arguments] + [None] * self.outputs
        returned = (y, *extra[: self.outputs - 1])
        if self.outputs == 1 and given.get("output_attentions"):
            returned = (y, None)  # one that grows by the weights when they are asked for
        return list(returned) if self.as_list else returned


class BlockCall(AttentionCall):
    """An operator in place of a whole block: y = x + operator(x). A `Block` has its own residual stream: y = block(x).

    With the part "zero" the block is dropped, yet keeps counting in the cache.
    """

    def forward(self, *values: Any, **keywords: Any) -> Any:
        given = {**dict(zip(self.arguments, values, strict=False)), **keywords}
        x = values[0] if values else given[self.arguments[0]]
        y = self._along(x, given)
        if not isinstance(self.operator, Block):
            y = x + y
        return self._returned(y, given, first_may_lack_bias=False)


class MixerCall(nn.Module):
    """A token-wise operator where a block of ours calls a mixer: it leaves the state as it is."""

    def __init__(self, operator: nn.Module):
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        return self.operator(x), state


def real_tokens(mask: Any, x: Tensor, seen: int) -> Tensor | None:
    """Which tokens of the chunk x (B, T, D) are real, bool (B, T), from any mask transformers hands to attention.

    mask  (B, S) of zeros and ones, or of zeros and -inf; or (B, 1, T, S) or (B, T, S), bool or additive; S counts
          cached keys too
    seen  tokens before this chunk

    A query always sees its own key, whatever the pattern (causal, bidirectional, window), unless that key is padding:
    the diagonal of the mask is the padding mask. None when every token is real: operators have faster paths then.
    """
    if isinstance(mask, Tensor) and mask.ndim == 3:
        mask = mask[:, None]
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise UserError(
            f"Cannot read padding from an attention mask of type {type(mask).__name__}. Load the model with "
            f"attn_implementation='sdpa' or 'eager'."
        )
    tokens = x.shape[1]
    # A preallocated cache has more columns than keys, a sliding one fewer than tokens seen.
    start = min(seen, mask.shape[-1] - tokens)
    here = torch.arange(tokens, device=mask.device)
    if mask.ndim == 2:
        own = mask[:, start : start + tokens]
    elif mask.shape[2] == tokens:
        own = mask[:, 0, here, start + here]
    else:
        own = mask[:, 0, -1, start : start + tokens]
    if own.is_floating_point():
        kept = own > torch.finfo(own.dtype).min / 2
        # Without a positive entry a (B, S) mask is additive: one of zeros alone would hide everything.
        own = kept if mask.ndim == 4 else torch.where((mask <= 0).all(), kept, own > 0)
    real = own.bool().expand(x.shape[0], tokens)
    if not torch.compiler.is_compiling() and bool(real.all()):
        return None
    return real
