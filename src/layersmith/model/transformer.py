"""A causal language model whose every sublayer is an operator of the catalogue.

    x = embed(ids)
    x = x + mixer(norm(x));  x = x + ffn(ffn_norm(x))          for each layer: a `series` block, or any other of the
                                                               family block, in the order the config says
    logits = lm_head(final_norm(x))

It is a transformers model: `generate`, `save_pretrained` and `AutoModelForCausalLM.from_pretrained` work, after
`import layersmith.model`. Its cache holds every mixer's own `State`, so that a layer of attention, a layer of linear
attention and a layer of DeltaNet decode side by side. Positions are the mixers' business: there is no table of them.

Shapes: ids (B, T) -> logits (B, T, vocab_size).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel, initialization
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from layersmith.anatomy.cache import StateLayer
from layersmith.block.shared.inside import norm_of, part_of
from layersmith.contract import Block, State, aux_losses
from layersmith.errors import UserError
from layersmith.model.config import TransformerConfig
from layersmith.model.exits import Exits, Leaving


class TransformerLM(PreTrainedModel, GenerationMixin):
    """Causal language model built from a `TransformerConfig`.

    Raises UserError for a spec that does not fit its place: another family, another width, a mixer that is not causal.
    """

    config_class = TransformerConfig
    config: TransformerConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012 - the names transformers reads
    _no_split_modules = ["Series"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _is_stateful = True  # states cannot be rolled back, so transformers refuses speculative decoding itself

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_scale = scale_of(config)
        layers = [layer_at(config, i) for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        self.without_state = [i for i, layer in enumerate(layers) if not layer.streams]
        self.final_norm = norm_of(config.final_norm, config.d_model, "final_norm")
        self.gradient_checkpointing = False
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.exits = Exits(config) if config.exits else None
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
        output_hidden_states: bool | None = None,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits, and with `labels` the mean next-token cross entropy plus the auxiliary losses of all operators.

        Of a model with exits the cross entropy is, in training, the mean over them and the last layer.

        input_ids or inputs_embeds   (B, T) or (B, T, D): the tokens after those in the cache
        attention_mask               (B, T), or (B, cached + T): 1 at real tokens, 0 at padding, on either side
        past_key_values, use_cache   a cache this model returned; return one
        labels                       (B, T), -100 where no token is to be predicted; shifted here
        logits_to_keep               compute logits of the last n tokens only; 0 = of all
        output_hidden_states         return the stream before every run of a layer and, last, after the final norm, each
                                     (B, T, D); as the config says where nothing is said here
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise UserError("Give the model either input_ids or inputs_embeds.")
        x = scaled(self.embed_tokens(input_ids), self.embed_scale) if inputs_embeds is None else inputs_embeds
        if labels is not None and logits_to_keep:
            raise UserError("The loss needs the logits of all tokens: leave out logits_to_keep, or labels.")
        cache = past_key_values
        if cache is None and use_cache:
            cache = Cache(layers=[StateLayer() for _ in range(self._runs)])
        held = self._held(cache)
        mask = None if attention_mask is None else _own_mask(attention_mask, x)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        seen: list[Tensor] | None = [] if output_hidden_states else None
        x, leaving = self._through(x, held, mask, seen)
        x = self.final_norm(x)
        if seen is not None:
            seen.append(x)
        logits = leaving.answers(self.lm_head(x[:, -logits_to_keep:]))
        loss = None
        if labels is not None:
            loss = leaving.loss(logits, labels)
            if self.training:  # operators report auxiliary losses in training only; older ones would be left over
                loss = sum(aux_losses(self).values(), loss)
        states = None if seen is None else tuple(seen)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache, hidden_states=states)
        return output if return_dict else output.to_tuple()

    def _through(
        self, x: Tensor, held: list[StateLayer], mask: Tensor | None, seen: list[Tensor] | None = None
    ) -> tuple[Tensor, Leaving]:
        """The stream after all layers, and who has left it before. What enters each run of a layer is put in `seen`."""
        leaving, embedded = Leaving(self.exits, self.lm_head), x
        for turn in range(self.config.loops):
            x = leaving.kept(x + embedded) if turn else x
            for run, index in enumerate(self.config.steps, turn * len(self.config.steps)):
                if seen is not None:
                    seen.append(x)
                x, state = self._run(index, x, held[run].state if held else None, mask)
                x = leaving.after(run + 1, x)
                if held:
                    held[run].advance(x.shape[1], state)
        return x, leaving

    @torch.no_grad()
    def depths(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T): how many layers each token of ids (B, T) runs through before it leaves by an exit or the last."""
        x = scaled(self.embed_tokens(input_ids), self.embed_scale)
        mask = None if attention_mask is None else _own_mask(attention_mask, x)
        return self._through(x, [], mask)[1].depths(x, self._runs)

    @property
    def _runs(self) -> int:
        """How often a layer is run."""
        return self.config.loops * len(self.config.steps)

    def _run(self, index: int, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State | None]:
        layer = self.layers[index]
        if self.gradient_checkpointing and self.training and state is None:
            return checkpoint(layer, x, None, mask, use_reentrant=False)
        return layer(x, state, mask)

    def _held(self, cache: Cache | None) -> list[StateLayer]:
        """What the cache holds for each run of a layer; empty without a cache."""
        if cache is None:
            return []
        if self.without_state:
            raise UserError(
                f"The mixers of layers {self.without_state} cannot continue from a state, so this model has no cache. "
                f"Pass use_cache=False."
            )
        held = [layer for layer in cache.layers if isinstance(layer, StateLayer)]
        if len(held) != self._runs:
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


def layer_at(config: TransformerConfig, index: int, causal: bool = True) -> Block:
    """A fresh layer of the model; with `causal`, no mixer in it may look ahead."""
    spec = config.layers[index]
    usual = spec.get("name", "series") == "series"
    place = {"name": "series", "norm_position": config.norm_position} if usual else {}
    try:
        layer = part_of(Block, "layer", {**place, **spec}, config.d_model)
    except UserError as error:
        raise UserError(f"Layer {index} of the model cannot be built: {error}") from error
    if causal and not layer.causal:
        raise UserError(
            f"The mixer of layer {index}, {spec.get('mixer', spec)}, is not causal: tokens would see what they are to "
            f"predict. Use a causal mixer, or causal=True if it has that argument."
        )
    return layer


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
