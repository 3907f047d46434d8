"""A model in one line: names of operators and a size, expanded to all that a `TransformerConfig` has to say.

    {"mixer": "deltanet"}
    {"d_model": 128, "n_layers": 4, "mixer": "deltanet", "ffn": {"name": "glu", "d_hidden": 384}, "norm": "rms_norm"}
    {"d_model": 128, "layers": [{"mixer": "softmax_attention"}, {"mixer": "deltanet"}], "ffn": "gr_kan"}
    {"block": "parallel", "mixer": "deltanet"}
    {"layers": [{}, {"block": {"name": "looped", "times": 4, "layers": [{"mixer": "deltanet"}, {}]}}, {}]}
    {"n_layers": 3, "order": [0, 1, 1, 1, 2]}

An operator is a catalogue name, or {"name": ..., arguments}; where it is trusted, also a class of the user's own,
"package.module:Class". Arguments that it needs and that are not given are those
of its example in the catalogue, with inner widths in proportion to d_model; heads and positions are the spec's. A block
is given the mixer, ffn and norm of its layer, and may hold layers of its own, written as those of a model are.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, replace
from typing import Any

from layersmith import catalogue
from layersmith.errors import UserError, suggest
from layersmith.model.config import TransformerConfig
from layersmith.model.series import check_entries
from layersmith.names import texts

#: Needed arguments that grow with the width of the model, besides those that begin with "d_".
WIDTHS = ("rank", "r", "n_tokens", "n_features")
#: Inner widths are multiples of this, which groups and blocks divide.
ROUND = 8
#: For classes of the user's own, which have no example in the catalogue: the usual inner width.
OWN_EXAMPLE = {"d_model": 32, "d_hidden": 128}
#: Of the feed-forwards of a macaron layer, in the form of a `TransformerConfig`.
HALF_STEPS = {"mixer": [1.0, 1.0], "ffn": [1.0, 0.5]}
#: What may differ from layer to layer.
SUBLAYERS = ("mixer", "ffn", "norm")
#: What a layer of a spec may say.
ENTRIES = (*SUBLAYERS, "block")

Name = str | dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """A model in short.

    d_model, n_layers, n_heads   width, number of layers, heads of every mixer that has heads
    mixer, ffn, norm             the operators of every layer; norm also stands before the output map; None: no norms
    block                        how they are arranged; None: a layer of mixer and ffn, as norm_position and macaron say
    layers                       one {"mixer", "ffn", "norm", "block"} a layer instead, each with what differs
    order                        which layer is run when, by its number; one that stands twice shares its weights
    inner                        factor on the inner widths of feed-forwards; 1 = in proportion as in the catalogue
    rope_theta                   for mixers that can rotate queries and keys; None: none of them does
    norm_position                "pre" or "post"
    macaron                      half a feed-forward before the mixer and half of one behind it, in every layer:
                                 x + ffn / 2 (arXiv 1906.02762, which halves their inner width too: inner)
    loops                        how often all layers are run through with the same weights, the input added at every
                                 turn ("Looped Transformers are Better at Learning Learning Algorithms")
    inverted, patch, instance_norm, decompose    of a task that foretells several series: what a token is, and what is
                                 taken off the series and put back (`series.py`)
    embed_scale                  what a learned factor on the embeddings starts at; None: there is none
    """

    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 2
    mixer: Name = "softmax_attention"
    ffn: Name = "glu"
    norm: Name | None = "rms_norm"
    block: Name | None = None
    layers: list[dict[str, Name]] | None = None
    order: list[int] | None = None
    inner: float = 1.0
    rope_theta: float | None = 10000.0
    norm_position: str = "pre"
    macaron: bool = False
    loops: int = 1
    inverted: bool = False
    patch: int | None = None
    instance_norm: bool = False
    decompose: int | None = None
    embed_scale: float | None = None

    @property
    def multiple(self) -> int:
        """Widths the spec allows are multiples of this: whole heads of an even size, which rotation needs."""
        return 2 * self.n_heads

    def resized(self, d_model: int, inner: float) -> Spec:
        return replace(self, d_model=d_model, inner=inner)


def read_spec(given: dict[str, Any]) -> Spec:
    """The spec that a dict says. UserError for what it cannot say, with the nearest name; nothing is built."""
    known = [field.name for field in fields(Spec)]
    for key in given:
        if key not in known:
            raise UserError(f"A model's spec has no entry {key!r}. {suggest(key, known)}")
    spec = Spec(**given)
    for name in ("d_model", "n_layers", "n_heads", "loops"):
        value = getattr(spec, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} of a model must be a whole number from 1 on, not {value!r}.")
    if not isinstance(spec.inner, int | float) or not spec.inner > 0:
        raise UserError(f"inner of a model must be more than 0, not {spec.inner!r}.")
    if not isinstance(spec.macaron, bool):
        raise UserError(f"macaron of a model must be true or false, not {spec.macaron!r}.")
    check_entries(spec)
    scale = spec.embed_scale
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float) or scale == 0):
        raise UserError(f"embed_scale of a model must be a number other than 0, not {scale!r}.")
    order = spec.order
    if order is not None and not (isinstance(order, list) and all(isinstance(i, int) for i in order)):
        raise UserError(f"order of a model must be a list of numbers of layers, from 0 on, not {order!r}.")
    for layer in _layers(spec):
        _check_entry(spec, layer)
    return spec


def _check_entry(spec: Spec, layer: dict[str, Any]) -> None:
    """A layer of the spec, and the layers inside it."""
    for sublayer, given in layer.items():
        if given is not None or sublayer in ("mixer", "ffn"):
            _check_operator(sublayer, given)
    block = layer["block"]
    if block is None:
        return
    if spec.macaron:
        raise UserError(f"macaron is an order of mixer and ffn, and so is the block {block!r}: give one of them.")
    if isinstance(block, dict):
        for inner in [*_inner_layers(block), *([block["layer"]] if "layer" in block else [])]:
            _check_entry(spec, _layer({**layer, "block": None}, inner))


def _check_operator(family: str, given: Name) -> None:
    name = given.get("name") if isinstance(given, dict) else given
    if not isinstance(name, str):
        raise UserError(f"A {family} is a name, or a dict with a 'name' and arguments; this one is {given!r}.")
    if ":" not in name:
        catalogue.check_family(name, family)


def own_code(spec: Spec) -> list[str]:
    """The classes of the user's own ("package.module:Class") that the spec names."""
    names = [name for layer in _layers(spec) for given in layer.values() for name in texts(given)]
    return list(dict.fromkeys(name for name in names if ":" in name))


def expand(
    spec: Spec, vocab_size: int, causal: bool = True, trust_remote_code: bool = False, tokens: int | None = None
) -> TransformerConfig:
    """The whole configuration; causal=False tells mixers that can be either not to be causal.

    tokens              positions of an input, for mixers with weights for each; None: as many as in their examples
    trust_remote_code   whether classes of the user's own may be imported, which runs their code
    """
    if spec.d_model % spec.n_heads:
        raise UserError(f"d_model={spec.d_model} is no multiple of n_heads={spec.n_heads}.")
    build = _Expansion(spec, causal, trust_remote_code, tokens)
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=spec.d_model,
        layers=[build.layer(layer) for layer in _layers(spec)],
        order=spec.order,
        norm_position=spec.norm_position,
        loops=spec.loops,
        embed_scale=None if spec.embed_scale is None else float(spec.embed_scale),
        final_norm=None if spec.norm_position == "post" else build.norm(spec.norm),
        tie_word_embeddings=False,
    )


def _layers(spec: Spec) -> list[dict[str, Any]]:
    common = {"mixer": spec.mixer, "ffn": spec.ffn, "norm": spec.norm, "block": spec.block}
    return [_layer(common, layer) for layer in ([{}] * spec.n_layers if spec.layers is None else spec.layers)]


def _layer(common: dict[str, Any], layer: Any) -> dict[str, Any]:
    """All entries of a layer: its own, and the common ones for the others."""
    if not isinstance(layer, dict) or not set(layer) <= set(ENTRIES):
        raise UserError(f"A layer of the spec is {layer!r}; a layer is a dict of {', '.join(ENTRIES)}.")
    return {**common, **layer}


def _inner_layers(block: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers inside a block, as they are given; none has the block around it for its own."""
    inner = block.get("layers", [])
    if not isinstance(inner, list) or not all(isinstance(layer, dict) for layer in inner):
        raise UserError(f"The layers inside a block are a list of layers, as those of a model are, not {inner!r}.")
    return [{"block": None, **layer} for layer in inner]


def _usual_layers(name: str) -> list[dict[str, Any]]:
    """As many layers as the block's example in the catalogue holds; one of a block of the user's own."""
    example = {} if ":" in name else catalogue.entry(name).example
    return [{"block": None}] * len(example.get("layers", [None]))


@dataclass(frozen=True)
class _Expansion:
    """A spec on its way to a config; see `expand`."""

    spec: Spec
    causal: bool
    trust_remote_code: bool
    tokens: int | None

    def layer(self, layer: dict[str, Any]) -> dict[str, Any]:
        """An entry of the config's layers."""
        mixer, ffn = self.operator(layer["mixer"]), self.operator(layer["ffn"])
        norm, again = self.norm(layer["norm"]), self.norm(layer["norm"])
        sublayers = {"norm": norm, "mixer": mixer, "ffn_norm": again, "ffn": ffn}
        if layer["block"] is not None:
            return self.block(layer, sublayers)
        if self.spec.macaron:
            return sublayers | {"first": {"norm": self.norm(layer["norm"]), "ffn": dict(ffn)}, "residual": HALF_STEPS}
        return sublayers

    def block(self, layer: dict[str, Any], sublayers: dict[str, Any]) -> dict[str, Any]:
        given = layer["block"]
        chosen: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
        takes = inspect.signature(catalogue.resolve(chosen["name"], self.trust_remote_code)).parameters
        for name in SUBLAYERS:
            if chosen.get(name) is not None:
                chosen[name] = self.operator(chosen[name])
        inside = self
        if "d_inner" in takes:  # layers inside are narrower
            chosen.setdefault("d_inner", _whole_heads(self.spec, self.spec.d_model // 2))
            inside = replace(self, spec=self.spec.resized(chosen["d_inner"], self.spec.inner))
        if "layer" in takes:
            chosen["layer"] = inside.layer(_layer({**layer, "block": None}, chosen.get("layer", {})))
        if "layers" in takes:
            inner = _inner_layers(chosen) or _usual_layers(chosen["name"])
            chosen["layers"] = [inside.layer(_layer(layer, own)) for own in inner]
        return self.operator({**{name: spec for name, spec in sublayers.items() if name in takes}, **chosen})

    def norm(self, given: Name | None) -> dict[str, Any] | None:
        return None if given is None else self.operator(given)

    def operator(self, given: Name) -> dict[str, Any]:
        """Name and arguments of an operator as wide as the spec says, without d_model."""
        spec = self.spec
        chosen: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
        part = catalogue.resolve(chosen["name"], self.trust_remote_code)
        takes = inspect.signature(part).parameters
        example = OWN_EXAMPLE if ":" in chosen["name"] else catalogue.entry(chosen["name"]).example
        # Where the example fills an argument that is None by default, only the example as a whole is sure to fit.
        whole = part.family == "ffn" and any(takes[name].default is None for name in example if name in takes)
        scale = spec.d_model / example["d_model"] * (spec.inner if part.family == "ffn" else 1.0)
        for name, parameter in takes.items():
            if name in chosen or name == "d_model":
                continue
            if name == "n_heads":
                chosen[name] = spec.n_heads
            elif name == "rope_theta":
                # A convolution tells positions apart by itself; what has one by default is not rotated too.
                filters = "conv" in takes and chosen.get("conv", takes["conv"].default) is not None
                chosen[name] = None if filters else spec.rope_theta
            elif name == "length" and self.tokens is not None:
                chosen[name] = self.tokens
            elif name == "causal":
                chosen[name] = self.causal
            elif parameter.default is inspect.Parameter.empty or (whole and name in example):
                if name not in example:
                    raise UserError(
                        f"{chosen['name']!r} needs the argument {name!r}: give it beside the name in a race file, as "
                        f"{{name: {chosen['name']}, {name}: ...}}, or give it a default."
                    )
                chosen[name] = _scaled(name, example[name], scale, "d_hidden" in takes)
        return chosen


def _whole_heads(spec: Spec, width: int) -> int:
    return max(spec.multiple, spec.multiple * round(width / spec.multiple))


def _scaled(name: str, value: Any, scale: float, counts_hidden: bool) -> Any:
    """An argument of the example, for another width. k grows where it counts hidden channels, not where experts."""
    if name.startswith("d_") or name in WIDTHS or (name == "k" and counts_hidden):
        return max(ROUND, ROUND * round(value * scale / ROUND))
    return value
