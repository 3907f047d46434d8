"""Series: the usual layer, token mixing and then channel mixing, each added to the stream; any operators stand in it.

    x = x + mixer(norm(x));   x = x + ffn(ffn_norm(x))                 norm_position "pre"
    x = norm(x + mixer(x));   x = ffn_norm(x + ffn(x))                 "post"

`residual` weights the sums, skip * x + branch * f(x): [0, 1] leaves the stream out, [1, 0] the sublayer. `first` is a
feed-forward before the mixer, summed with the factors of the other: with branch 1/2 a macaron layer, half a step of
feed-forward, a step of attention, half a step of feed-forward, as a splitting scheme of second order takes them.

Shapes: x (B, T, D) -> (B, T, D). State: the mixer's.

Papers: the layer as a frame whose mixer is free: Yu et al. 2021, "MetaFormer Is Actually What You Need for Vision";
macaron: Lu et al. 2019, "Understanding and Improving Transformer From a Multi-Particle Dynamic System Point of View",
arXiv 1906.02762, which halves the inner width of both feed-forwards.
Differs from the papers: the scale per channel that MetaFormer learns on each branch is a fixed pair of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from layersmith import catalogue
from layersmith.block.shared.inside import Composed, Spec, ffn_of, mixer_of, norm_of, operators
from layersmith.block.shared.one_token import one_token
from layersmith.contract import FeedForward, Mixer, Operator, State, require_positive
from layersmith.errors import UserError, suggest

POSITIONS = ("pre", "post")
Factors = tuple[float, float]


class Series(Composed):
    """Mixer, then feed-forward.

    d_model         width of the residual stream
    mixer, ffn      specs of the sublayers
    norm, ffn_norm  specs of their norms; None for none
    norm_position   "pre": x + f(norm(x)); "post": norm(x + f(x))
    residual        {"mixer": [skip, branch], "ffn": [skip, branch]}: the factors of the sums; None: all are 1
    first           {"norm", "ffn"} of specs: a feed-forward before the mixer
    sub_norm        spec of a norm before the output maps of mixer and feed-forwards
    """

    name = "series"

    def __init__(
        self,
        d_model: int,
        mixer: Spec,
        ffn: Spec,
        norm: Spec | None = None,
        ffn_norm: Spec | None = None,
        norm_position: str = "pre",
        residual: dict[str, list[float]] | None = None,
        first: dict[str, Spec] | None = None,
        sub_norm: Spec | None = None,
    ):
        super().__init__()
        require_positive(Series, d_model=d_model)
        if norm_position not in POSITIONS:
            raise UserError(f"norm_position={norm_position!r} is unknown. {suggest(norm_position, list(POSITIONS))}")
        self.first_norm: nn.Module | None = None
        self.first_ffn: FeedForward | None = None
        if first is not None:
            self.first_norm = norm_of(first["norm"], d_model, "first norm")
            self.first_ffn = ffn_of(first["ffn"], d_model, "first ffn")
        self.norm = norm_of(norm, d_model)
        self.mixer = mixer_of(mixer, d_model)
        self.ffn_norm = norm_of(ffn_norm, d_model, "ffn_norm")
        self.ffn = ffn_of(ffn, d_model)
        self.post = norm_position == "post"
        self.mixer_factors, self.ffn_factors = _factors(residual)
        if sub_norm is not None:
            self.add_sub_norms(sub_norm)

    def add_sub_norms(self, spec: Spec) -> None:
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

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        if state is not None and mask is None:
            done = one_token(self, x, state)
            if done is not None:
                return done
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
    def keeper(self) -> Mixer | None:
        return self.mixer if isinstance(self.mixer, Mixer) else None  # a token-wise operator may stand there

    @property
    def ffns(self) -> list[FeedForward]:
        """Its feed-forwards in their order."""
        return [self.ffn] if self.first_ffn is None else [self.first_ffn, self.ffn]

    def runs(self) -> Iterator[tuple[Operator, int]]:
        norms = operators(self.first_norm, self.norm, self.ffn_norm)
        return ((part, 1) for part in (*norms, self.mixer, *self.ffns))


class NormedLinear(nn.Module):
    """linear(norm(x)): an output map with a norm of its own before it (Sub-LN)."""

    def __init__(self, norm: nn.Module, linear: nn.Linear):
        super().__init__()
        self.norm, self.linear = norm, linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def _sum(x: Tensor, y: Tensor, factors: Factors) -> Tensor:
    """skip * x + branch * y."""
    return x + y if factors == (1.0, 1.0) else factors[0] * x + factors[1] * y


def _factors(residual: dict[str, list[float]] | None) -> tuple[Factors, Factors]:
    """Those of the mixer and of the feed-forwards."""
    if not residual:
        return (1.0, 1.0), (1.0, 1.0)
    pairs = [residual.get(sublayer) for sublayer in ("mixer", "ffn")]
    if len(residual) > 2 or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise UserError(
            f"The residual factors of a layer are {residual}; they are two pairs: "
            f"{{'mixer': [skip, branch], 'ffn': [skip, branch]}}."
        )
    mixer, ffn = ((float(pair[0]), float(pair[1])) for pair in pairs if pair is not None)
    return mixer, ffn
