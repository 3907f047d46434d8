"""The contract every part keeps: one base class per family, and the auxiliary-loss channel.

An **operator** is a plain `nn.Module` whose constructor keyword arguments are its whole configuration. The base
class records them, so `module.spec()` and `catalogue.build(spec)` round-trip without the operator doing anything.
A user's own operator needs nothing but a constructor and `forward`:

    class MyFFN(FeedForward):
        def __init__(self, d_model: int, d_hidden: int):
            super().__init__()
            self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)

        def forward(self, x):
            return self.down(torch.relu(self.up(x)))

Shapes use these letters: B batch, T tokens, D d_model, H heads.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layersmith.cost import Cost as Cost

#: What a mixer carries from one chunk of tokens to the next. Every tensor has the batch as dimension 0, so that a
#: cache can reorder, repeat or select sequences without knowing the operator.
State = dict[str, Tensor]
#: Where an operator keeps the auxiliary losses of its last training forward.
_AUX = "_aux"


class Configured:
    """Records the constructor arguments as the configuration, so that a spec builds an equal thing anew."""

    family: ClassVar[str] = ""
    #: The catalogue name. Left empty by a user's own class, which is then named "package.module:Class".
    name: ClassVar[str] = ""

    _config: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Recorded here, not in __init__, so that a part's constructor has no bookkeeping in it.
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:
            # Arguments that do not fit: __init__ says so next. Or none, from copy.deepcopy, which restores _config.
            return self
        bound.apply_defaults()
        config = {k: v for k, v in bound.arguments.items() if k != "self"}
        try:
            self.__dict__["_config"] = json.loads(json.dumps(config))
        except TypeError as error:
            raise ValueError(
                f"{cls.__name__} was given a constructor argument that JSON cannot hold ({error}). The constructor "
                f"arguments are the part's configuration: use numbers, strings, lists and dicts."
            ) from error
        return self

    def spec(self) -> dict[str, Any]:
        """The JSON-serialisable description from which `catalogue.build` makes an equal, freshly initialised part."""
        name = self.name or f"{type(self).__module__}:{type(self).__qualname__}"
        return {"name": name, **copy.deepcopy(self.__dict__.get("_config", {}))}


class Operator(Configured, nn.Module):
    """Base of the families of sublayers: a module that reports its cost. Do not subclass directly."""

    #: Of a part that computes in fewer bits than float32 has: how far float32 in may then be off, relative to the
    #: largest output. In float64 it rounds nothing, so that there is something to compare with.
    rounds: ClassVar[float] = 0.0
    #: False where torch.compile cannot take the part as one graph, for a reason the part gives beside it.
    compiles: ClassVar[bool] = True

    def __getstate__(self) -> dict[str, Any]:
        # Losses of the last forward hang on its graph, which can be neither copied nor saved; they are not the part's.
        return {name: value for name, value in self.__dict__.items() if name != _AUX}

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        """Cost of one forward over `(batch, tokens)`. Counted on the meta device: nothing is computed.

        An operator that skips work, or whose forward depends on values, overrides this.
        """
        params = sum(p.numel() for p in self.parameters())
        return Cost(
            params=params,
            active_params=params,
            flops=self._counted_flops(batch, tokens),
            state_bytes=self._state_bytes(batch, tokens),
            weight_bytes=stored_bytes(self),
        )

    def _counted_flops(self, batch: int, tokens: int) -> int:
        ghost = copy.deepcopy(self).to("meta").eval()
        x = torch.empty(batch, tokens, self.d_in, device="meta", dtype=_float_dtype(self))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            ghost(x)
        return counter.get_total_flops()

    def _state_bytes(self, batch: int, tokens: int) -> int:
        return 0

    @property
    def d_in(self) -> int:
        """Width of the input: the configured `d_in` of a linear map, `d_model` of everything else."""
        return self._config["d_in"] if "d_in" in self._config else self._config["d_model"]


class Linear(Operator):
    """One linear map, standing in for a weight matrix: `forward(x: (..., d_in)) -> (..., d_out)`.

    The constructor takes `d_in` and `d_out`.
    """

    family = "linear"

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class FeedForward(Operator):
    """Channel mixing: `forward(x: (..., D)) -> (..., D)`. Token-wise: no information crosses tokens."""

    family = "ffn"

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Norm(Operator):
    """Normalisation: `forward(x: (..., D)) -> (..., D)`. Token-wise unless the class says otherwise."""

    family = "norm"

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Streaming(Operator):
    """What mixers and blocks have in common: tokens read each other, and a state carries on from chunk to chunk.

    `forward(x: (B, T, D), state, mask) -> (y: (B, T, D), state)`

    state  None at the start of a sequence; otherwise what the previous call returned. Feeding a sequence in chunks
           with the state gives the same outputs as feeding it at once. One that cannot stream refuses a state.
    mask   optional bool (B, T), True at real tokens, False at padding. Padding never influences a real token.
    """

    #: True: token t reads only tokens <= t, proved by the suite. May be set per instance from its config.
    causal: bool = True
    #: True: `state` works (chunked = whole). What is not causal cannot stream.
    streams: bool = True
    #: The most real tokens it can take, set per instance from its config; None: any number.
    longest: int | None = None

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        raise NotImplementedError

    @property
    def keeper(self) -> Mixer | None:
        """The mixer that the state is from, and that knows how a cache keeps it; None where it is not one mixer's."""
        return None

    def state_bytes(self, tokens: int, batch: int = 1) -> int:
        """Bytes of the state after `tokens` tokens, from the state's own shapes."""
        if not self.streams:
            return 0
        ghost = copy.deepcopy(self).to("meta").eval()
        x = torch.empty(batch, tokens, self._config["d_model"], device="meta", dtype=_float_dtype(self))
        with torch.no_grad():
            _, state = ghost(x)
        return kept_bytes((state or {}).values())

    def _state_bytes(self, batch: int, tokens: int) -> int:
        return self.state_bytes(tokens, batch)


class Mixer(Streaming):
    """Token mixing: what a residual stream adds to itself, called as `Streaming` says."""

    family = "mixer"

    @property
    def keeper(self) -> Mixer:
        return self

    def settled(self, state: State) -> State:
        """The state as a cache keeps it, which goes on from it once only: it may be written into by the next call."""
        return state

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        """The state as it was some tokens ago, 0 < tokens < seen; None where the state does not tell.

        seen  how many tokens, padding included, have led to the state

        A sum over the past does not tell. Where it can be told, decoding may try tokens and take them back.
        """
        return None


class Block(Streaming):
    """An arrangement of sublayers with its own residual stream, called as `Streaming` says.

    A block made of parts names them by their specs, builds them by `catalogue.build` and keeps their states in its own.
    """

    family = "block"


class Scheme(Configured):
    """How a whole model starts: initial weights, residual factors, places of norms; no module of its own.

    `apply` changes a fresh model once, before training. What it changes besides weights stands in the model's config
    afterwards, so that the saved model loads as it was.
    """

    family = "scheme"
    #: What holds in large models, not in plain ones: quantities of `scheme.flow.measured_growth` -> (low, high).
    expected: ClassVar[dict[str, tuple[float, float]]] = {}
    #: Entries of every layer in which the model that `expected` is tested on differs from a plain Pre-LN transformer.
    tested_on: ClassVar[dict[str, Any]] = {}

    def apply(self, model: nn.Module) -> None:
        """Set the model's initial weights, residual factors and norm places. Draws from torch's global generator."""
        raise NotImplementedError

    def learning_rates(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer, each {"params": [...], "lr": ...}; every trainable parameter once."""
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}]


def report_aux(module: Operator, name: str, loss: Tensor) -> None:
    """Publish an auxiliary loss (a scalar, already weighted) from inside `forward`; read by `aux_losses`.

    Losses are kept only in training mode, replaced by the next forward, and no part of a copy of the module.
    """
    if module.training:
        module.__dict__.setdefault(_AUX, {})[name] = loss


def aux_losses(model: nn.Module) -> dict[str, Tensor]:
    """All auxiliary losses of the last training forward, as {"path.name": scalar}. Add them to the loss."""
    found = {}
    for path, module in model.named_modules():
        for name, loss in module.__dict__.get(_AUX, {}).items():
            found[f"{path}.{name}".lstrip(".")] = loss
    return found


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, each shared tensor counted once."""
    tensors = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def kept_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of what a cache or a state consists of, each tensor once. A counter of tokens is none of it."""
    each = {id(t): t for t in tensors if t.ndim > 0}
    return sum(t.numel() * t.element_size() for t in each.values())


def require_positive(owner: type, **sizes: int) -> None:
    """Raise a clear ValueError unless every named size is a positive integer."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{owner.__name__}: {name} must be a positive integer, not {value!r}.")


def _float_dtype(module: nn.Module) -> torch.dtype:
    floats = (t.dtype for t in [*module.parameters(), *module.buffers()] if t.is_floating_point())
    return next(floats, torch.get_default_dtype())
