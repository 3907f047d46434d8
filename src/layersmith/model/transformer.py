"""A causal language model whose every sublayer is an operator of the catalogue.

    x = embed(ids)
    x = x + mixer(norm(x));  x = x + ffn(ffn_norm(x))          for each layer (norms after the sum with "post",
                                                               other sums with "residual" factors, a feed-forward
                                                               before the mixer too with "first")
    logits = lm_head(final_norm(x))

It is a transformers model: `generate`, `save_pretrained` and `AutoModelForCausalLM.from_pretrained` work, after
`import layersmith.model`. Its cache holds every mixer's own `State`, so that a layer of attention, a layer of linear
attention and a layer of DeltaNet decode side by side. Positions are the mixers' business: there is no table of them.

Shapes: ids (B, T) -> logits (B, T, vocab_size).
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel, initialization
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from layersmith import catalogue
from layersmith.anatomy.cache import StateLayer
from layersmith.contract import FeedForward, Mixer, Norm, Operator, State, aux_losses
from layersmith.errors import UserError
from layersmith.model.config import TransformerConfig

Part = TypeVar("Part", bound=Operator)


class TransformerLayer(nn.Module):
    """Token mixing, then channel mixing, each with a residual and a norm. With `causal`, no mixer may look ahead."""

    def __init__(self, config: TransformerConfig, index: int, causal: bool = True, trust_remote_code: bool = False):
        super().__init__()
        specs, trust = config.layers[index], trust_remote_code
        self.first_norm: nn.Module | None = None
        self.first_ffn: FeedForward | None = None
        if "first" in specs:
            self.first_norm = norm_of(config, f"first norm of layer {index}", specs["first"]["norm"], trust)
            self.first_ffn = _part(FeedForward, config, f"first ffn of layer {index}", specs["first"]["ffn"], trust)
        self.norm = norm_of(config, f"norm of layer {index}", specs["norm"], trust)
        self.mixer = _part(Mixer, config, f"mixer of layer {index}", specs["mixer"], trust)
        self.ffn_norm = norm_of(config, f"ffn_norm of layer {index}", specs["ffn_norm"], trust)
        self.ffn = _part(FeedForward, config, f"ffn of layer {index}", specs["ffn"], trust)
        if causal and not self.mixer.causal:
            raise UserError(
                f"The mixer of layer {index}, {specs['mixer']}, is not causal: tokens would see what they are to "
                f"predict. Use a causal mixer, or causal=True if it has that argument."
            )
        self.post = config.norm_position == "post"
        residual = specs.get("residual", {"mixer": (1.0, 1.0), "ffn": (1.0, 1.0)})
        self.mixer_factors, self.ffn_factors = tuple(residual["mixer"]), tuple(residual["ffn"])
        if specs.get("sub_norm") is not None:
            self.add_sub_norms(specs["sub_norm"])

    def add_sub_norms(self, spec: dict[str, Any]) -> None:
        """Put a norm of this spec before the output map of the mixer (`o`) and of the feed-forwards (`down`)."""
        for part, name in ((self.mixer, "o"), *((ffn, "down") for ffn in self.ffns)):
            linear = getattr(part, name, None)
            if not isinstance(linear, nn.Linear):
                raise UserError(
                    f"{type(part).__name__} has no output map {name!r} that a sub_norm could stand before. Use an "
                    f"attention mixer, and 'mlp' or 'glu'."
                )
            norm = catalogue.build({**spec, "d_model": linear.in_features})
            setattr(part, name, NormedLinear(norm.to(linear.weight), linear))

    def forward(self, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State | None]:
        """x (B, T, D) -> (x (B, T, D), the mixer's state)."""
        if self.first_norm is not None and self.first_ffn is not None:
            x = self._fed(x, self.first_norm, self.first_ffn)
        if self.post:
            y, state = self.mixer(x, state, mask)
            x = self.norm(_sum(x, y, self.mixer_factors))
        else:
            y, state = self.mixer(self.norm(x), state, mask)
            x = _sum(x, y, self.mixer_factors)
        return self._fed(x, self.ffn_norm, self.ffn), state

    def _fed(self, x: Tensor, norm: nn.Module, ffn: nn.Module) -> Tensor:
        if self.post:
            return norm(_sum(x, ffn(x), self.ffn_factors))
        return _sum(x, ffn(norm(x)), self.ffn_factors)

    @property
    def ffns(self) -> list[FeedForward]:
        """Its feed-forwards in their order."""
        return [self.ffn] if self.first_ffn is None else [self.first_ffn, self.ffn]


class NormedLinear(nn.Module):
    """linear(norm(x)): an output map with a norm of its own before it (Sub-LN)."""

    def __init__(self, norm: nn.Module, linear: nn.Linear):
        super().__init__()
        self.norm, self.linear = norm, linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def _sum(x: Tensor, y: Tensor, factors: tuple[float, ...]) -> Tensor:
    """skip * x + branch * y."""
    return x + y if factors == (1.0, 1.0) else factors[0] * x + factors[1] * y


class TransformerLM(PreTrainedModel, GenerationMixin):
    """Causal language model built from a `TransformerConfig`.

    Raises UserError for a spec that does not fit its place: another family, another width, a mixer that is not causal.
    """

    config_class = TransformerConfig
    config: TransformerConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012 - the names transformers reads
    _no_split_modules = ["TransformerLayer"]  # noqa: RUF012
    _is_stateful = True  # states cannot be rolled back, so transformers refuses speculative decoding itself

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_scale = scale_of(config)
        layers = [TransformerLayer(config, i) for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        self.without_state = [i for i, layer in enumerate(layers) if not layer.mixer.streams]
        self.final_norm = norm_of(config, "final_norm", config.final_norm)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits, and with `labels` the mean next-token cross entropy plus the auxiliary losses of all operators.

        input_ids or inputs_embeds   (B, T) or (B, T, D): the tokens after those in the cache
        attention_mask               (B, T), or (B, cached + T): 1 at real tokens, 0 at padding, on either side
        past_key_values, use_cache   a cache this model returned; return one
        labels                       (B, T), -100 where no token is to be predicted; shifted here
        logits_to_keep               compute logits of the last n tokens only; 0 = of all
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise UserError("Give the model either input_ids or inputs_embeds.")
        x = scaled(self.embed_tokens(input_ids), self.embed_scale) if inputs_embeds is None else inputs_embeds
        if labels is not None and logits_to_keep:
            raise UserError("The loss needs the logits of all tokens: leave out logits_to_keep, or labels.")
        cache = past_key_values
        if cache is None and use_cache:
            cache = Cache(layers=[StateLayer() for _ in range(self.config.loops * len(self.layers))])
        held = self._held(cache)
        mask = None if attention_mask is None else _own_mask(attention_mask, x)
        embedded = x
        for turn in range(self.config.loops):
            x = x + embedded if turn else x
            for index, layer in enumerate(self.layers, turn * len(self.layers)):
                x, state = layer(x, held[index].state if held else None, mask)
                if held:
                    held[index].advance(x.shape[1], state)
        x = self.final_norm(x)
        logits = self.lm_head(x[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
            if self.training:  # operators report auxiliary losses in training only; older ones would be left over
                loss = sum(aux_losses(self).values(), loss)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
        return output if return_dict else output.to_tuple()

    def _held(self, cache: Cache | None) -> list[StateLayer]:
        """What the cache holds for each layer of each turn; empty without a cache."""
        if cache is None:
            return []
        if self.without_state:
            raise UserError(
                f"The mixers of layers {self.without_state} cannot continue from a state, so this model has no cache. "
                f"Pass use_cache=False."
            )
        held = [layer for layer in cache.layers if isinstance(layer, StateLayer)]
        if len(held) != self.config.loops * len(self.layers):
            raise UserError("This cache is not one that this model returned. Leave past_key_values out to start anew.")
        return held

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # Asked by `generate`, which would otherwise make a cache of keys and values; forward makes ours.
        return False

    def _init_weights(self, module: nn.Module) -> None:
        # transformers would draw every linear map anew. Operators know their own initial weights.
        if module is self.embed_tokens or module is self.lm_head:
            initialization.normal_(module.weight, std=self.config.initializer_range)


def scale_of(config: TransformerConfig) -> nn.Parameter | None:
    """The learned factor on the embeddings, as it starts."""
    return None if config.embed_scale is None else nn.Parameter(torch.tensor(float(config.embed_scale)))


def scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else factor * x


def norm_of(config: TransformerConfig, place: str, spec: dict[str, Any] | None, trust: bool = False) -> nn.Module:
    """The norm of a spec; the identity for None."""
    return nn.Identity() if spec is None else _part(Norm, config, place, spec, trust)


def _part(
    family: type[Part], config: TransformerConfig, place: str, spec: dict[str, Any], trust_remote_code: bool
) -> Part:
    """The operator of a spec, of the family its place asks for and as wide as the model."""
    width = spec.get("d_model", config.d_model)
    if width != config.d_model:
        raise UserError(f"The {place} has d_model={width}, the model has {config.d_model}. Leave it out of the spec.")
    part = catalogue.build({**spec, "d_model": width}, trust_remote_code)
    if not isinstance(part, family):
        raise UserError(
            f"{spec['name']!r} is of the family {part.family!r} and cannot be the {place}, which takes one of the "
            f"family {family.family!r}."
        )
    return part


def _own_mask(attention_mask: Tensor, x: Tensor) -> Tensor | None:
    """bool (B, T): which tokens of x are real; None when all are, for which mixers have faster paths."""
    if attention_mask.ndim != 2 or attention_mask.shape[1] < x.shape[1]:
        raise UserError(
            f"attention_mask must be (batch, tokens) and cover the {x.shape[1]} tokens given, not of shape "
            f"{tuple(attention_mask.shape)}."
        )
    mask = attention_mask[:, attention_mask.shape[1] - x.shape[1] :].bool()
    if not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask


AutoConfig.register(TransformerConfig.model_type, TransformerConfig)
AutoModelForCausalLM.register(TransformerConfig, TransformerLM)
