"""The configuration of the reference transformer: sizes, and for every layer the operators that stand in it.

    TransformerConfig(
        vocab_size=256, d_model=64,
        layers=2 * [{
            "norm": {"name": "rms_norm"}, "mixer": {"name": "softmax_attention", "n_heads": 4, "rope_theta": 1e4},
            "ffn_norm": {"name": "rms_norm"}, "ffn": {"name": "glu", "d_hidden": 128},
        }],
        final_norm={"name": "rms_norm"},
    )

A spec is a catalogue name and the operator's arguments; `d_model` is filled in from the model's.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from transformers import PretrainedConfig

from layersmith.errors import UserError, suggest

SUBLAYERS = ("norm", "mixer", "ffn_norm", "ffn")
NORM_POSITIONS = ("pre", "post")
#: What a layer without a name may say besides: how its sums are weighted, norms before output maps, what comes first.
OPTIONAL = ("residual", "sub_norm", "first")


class TransformerConfig(PretrainedConfig):
    """Configuration of `TransformerLM`.

    vocab_size, d_model    number of tokens in the vocabulary, width of the residual stream
    layers                 the spec of a block per layer, {"name": ..., arguments}; layers may differ. Without a name
                           it is a `series`, one {"norm", "mixer", "ffn_norm", "ffn"} of specs: a norm may
                           be None. A layer may also have "residual": {"mixer": [skip, branch], "ffn": [skip, branch]},
                           for skip * x + branch * f(x) in place of x + f(x), "sub_norm": the spec of a norm before
                           the output maps of mixer and ffn, and "first": {"norm", "ffn"} of specs, a feed-forward
                           before the mixer, summed with the factors of the other (a macaron layer)
    order                  which layer is run when, as indices of `layers`: one that stands several times is one set of
                           weights, with a state of its own for each time. None: each once
    loops                  how often all layers are run through with the same weights; from the second turn on the
                           embeddings are added to what they read
    exits                  numbers of layers after which a token may leave, if it is sure enough (`exits.py`)
    exit_threshold         probability above which it is, in evaluation; 1: nobody leaves
    embed_scale            what a learned factor on the embeddings starts at; None for no such factor
    norm_position          "pre": x + f(norm(x));  "post": norm(x + f(x)); of layers without a name
    final_norm             spec of the norm before the output map; None for none
    tie_word_embeddings    the output map uses the embedding matrix
    initializer_range      standard deviation of a fresh embedding; operators initialise themselves

    Raises UserError when a layer lacks a sublayer or has one of an unknown name.
    """

    model_type = "layersmith_transformer"
    keys_to_ignore_at_inference = ("past_key_values",)
    attribute_map = {"hidden_size": "d_model"}  # noqa: RUF012 - the name transformers reads

    vocab_size: int = 256
    d_model: int = 64
    layers: list[dict[str, Any]] = field(default_factory=list)
    order: list[int] | None = None
    norm_position: str = "pre"
    loops: int = 1
    exits: list[int] | None = None
    exit_threshold: float = 1.0
    embed_scale: float | None = None
    final_norm: dict[str, Any] | None = None
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.norm_position not in NORM_POSITIONS:
            raise UserError(
                f"norm_position={self.norm_position!r} is unknown. {suggest(self.norm_position, list(NORM_POSITIONS))}"
            )
        if self.loops < 1:
            raise UserError(f"loops={self.loops}: the layers are run through at least once.")
        for index, layer in enumerate(self.layers):
            _check_layer(index, layer)
        order = self.order
        if order is not None and set(order) != set(range(len(self.layers))):
            raise UserError(
                f"order={order} runs layers of a model that has those from 0 to {len(self.layers) - 1}; it is a list "
                f"in which each of these stands once or more."
            )

    @property
    def steps(self) -> list[int]:
        """The layers in the order in which they are run in one turn."""
        return list(range(len(self.layers))) if self.order is None else self.order

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layers)


def _check_layer(index: int, layer: dict[str, Any]) -> None:
    if "name" in layer:
        return  # what a block takes is its own business
    if set(layer) - set(OPTIONAL) != set(SUBLAYERS):
        raise UserError(
            f"Layer {index} of the config has the sublayers {sorted(layer)}; every layer without a name needs exactly "
            f"{sorted(SUBLAYERS)}, each a spec such as {{'name': 'rms_norm'}}; {sorted(OPTIONAL)} may stand beside "
            f"them."
        )
    if "first" in layer and set(layer["first"]) != {"norm", "ffn"}:
        raise UserError(f"What comes first in layer {index} has {sorted(layer['first'])}; it needs norm and ffn.")
    factors = layer.get("residual", {})
    pairs = [factors.get(sublayer) for sublayer in ("mixer", "ffn")] if factors else []
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs) or len(factors) > 2:
        raise UserError(
            f"The residual factors of layer {index} are {factors}; they are two pairs: "
            f"{{'mixer': [skip, branch], 'ffn': [skip, branch]}}."
        )
