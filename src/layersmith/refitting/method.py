"""What a method is, and what it may look at.

A method turns a trained sublayer into candidates: it says where it applies, which settings it offers there, and
builds a replacement from the original's weights and its calibration activations. One method per file in `methods/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy.edit import Replacement, apply, restore
from layersmith.anatomy.recognise import as_attention, as_ffn
from layersmith.anatomy.span import original
from layersmith.anatomy.swap import replacement_for
from layersmith.contract import Operator

Settings = dict[str, Any]


@dataclass
class Call:
    """One recorded call of a sublayer: how it was called, what came out, and which tokens were real."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    input: Tensor
    output: Tensor
    mask: Tensor | None
    #: Names the batch in the store of activations.
    key: str = ""

    def real(self, x: Tensor) -> Tensor:
        """The rows of a (B, T, D) tensor at real tokens, as (tokens, D)."""
        return x.flatten(0, 1) if self.mask is None else x[self.mask]


def _no_stream(calls: list[Call], blocks: int) -> list[Tensor]:
    raise ValueError("This model's blocks cannot be run alone, so the stream between them was not kept.")


@dataclass
class SublayerView:
    """Everything a method may use at one site. Activations are float32, flattened over real tokens.

    fit       calls a method may fit to
    holdout   calls kept aside: local errors and early stops are measured here
    statistics  optional named statistics from whole-model passes, e.g. "taylor" (d_hidden,)
    """

    model: nn.Module
    anatomy: Anatomy
    site: Site
    fit: list[Call]
    holdout: list[Call]
    statistics: dict[str, Tensor] = field(default_factory=dict)
    #: How many blocks follow whose outputs were kept, and (calls, n) -> what enters the n-th block after this one.
    blocks_after: int = 0
    stream: Callable[[list[Call], int], list[Tensor]] = field(default=_no_stream)
    seed: int = 0
    _made: dict[str, Any] = field(default_factory=dict)

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, computed once per view: for what all settings of a method, or several methods, share."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @cached_property
    def original(self) -> nn.Module:
        """The sublayer as one callable module. Read only: copy before changing anything."""
        return original(self.model, self.site)

    @cached_property
    def inputs(self) -> Tensor:
        """(tokens, D) what entered the sublayer on the fit calls."""
        return torch.cat([c.real(c.input) for c in self.fit]).float()

    @cached_property
    def outputs(self) -> Tensor:
        """(tokens, D) what left it. For a block: with the residual."""
        return torch.cat([c.real(c.output) for c in self.fit]).float()

    @cached_property
    def targets(self) -> Tensor:
        """(tokens, D) what a replacement operator has to produce: the outputs, less the residual for a block."""
        return self.outputs - self.inputs if self.site.kind == "block" else self.outputs

    @cached_property
    def ffn(self) -> Any:
        """The site `Recognised` as our `GLU` or `MLP` with equal outputs, or None when it is not one."""
        return as_ffn(self.model, self.site) if self.site.kind == "ffn" else None

    @cached_property
    def attention(self) -> Any:
        """The site `Recognised` as our `SoftmaxAttention` with equal outputs, or None when it is not one."""
        return as_attention(self.model, self.site) if self.site.kind == "mixer" else None

    def linears(self) -> dict[str, nn.Module]:
        """Model path -> weight matrices inside the site (`nn.Linear`, transformers' `Conv1D`)."""
        found = {}
        for path in self.site.modules:
            for name, module in self.model.get_submodule(path).named_modules():
                if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                    found[f"{path}.{name}".rstrip(".")] = module
        return found

    @property
    def grams(self) -> dict[str, Tensor]:
        """For each of `linears`: X^T X / tokens of its inputs on the fit calls, (d_in, d_in) float32."""
        return self._moments[0]

    @property
    def means(self) -> dict[str, Tensor]:
        """For each of `linears`: the mean of its inputs on the fit calls, (d_in,) float32."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        linears = self.linears()
        squares: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        current: list[Call] = []

        def recorder(path: str) -> Callable[..., None]:
            def record(module: nn.Module, args: tuple[Any, ...]) -> None:
                x = args[0]
                if current[0].mask is not None and x.shape[:2] == current[0].mask.shape:
                    x = x[current[0].mask]
                x = x.reshape(-1, x.shape[-1]).float()
                squares[path] = squares.get(path, torch.zeros(())) + x.T @ x
                sums[path] = sums.get(path, torch.zeros(())) + x.sum(0)
                counts[path] = counts.get(path, 0) + len(x)

            return record

        hooks = [m.register_forward_pre_hook(recorder(p)) for p, m in linears.items()]
        try:
            with torch.no_grad():
                for call in self.fit:
                    current[:] = [call]
                    self.original(*call.args, **call.kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        return {p: squares[p] / counts[p] for p in counts}, {p: sums[p] / counts[p] for p in counts}

    def as_replacement(self, operator: Operator) -> Replacement:
        """The replacement that puts one operator at this site, with the site's calling convention."""
        return replacement_for(self.model, self.site, operator)

    def run(self, replacement: Replacement, calls: list[Call]) -> list[Tensor]:
        """Outputs of the edited sublayer on recorded calls (gradients flow when enabled)."""
        before = apply(self.model, replacement)
        try:
            edited = original(self.model, self.site)
            outputs = [edited(*c.args, **c.kwargs) for c in calls]
        finally:
            restore(self.model, before)
        tensors = [o[0] if isinstance(o, tuple | list) else o for o in outputs]
        return [y.reshape(c.output.shape) for y, c in zip(tensors, calls, strict=True)]

    @torch.no_grad()
    def local_error(self, replacement: Replacement) -> float:
        """||y - y'||^2 / ||y||^2 over the holdout calls; 1.0 is what a zero output would score.

        y is what the sublayer adds to the residual stream (for a block: its output less its input).
        """
        wrong = total = 0.0
        for call, out in zip(self.holdout, self.run(replacement, self.holdout), strict=True):
            target = call.real(call.output).double()
            wrong += float((call.real(out).double() - target).square().sum())
            if self.site.kind == "block":
                target = target - call.real(call.input).double()
            total += float(target.square().sum())
        return wrong / max(total, 1e-30)


class Method(ABC):
    """One way to make candidates for a site. Subclasses are stateless; `methods/__init__.py` lists them."""

    #: Name on the command line.
    name: ClassVar[str]
    #: Site kinds it can work on.
    kinds: ClassVar[tuple[str, ...]]
    #: Ids of source papers.
    papers: ClassVar[tuple[str, ...]] = ()
    #: Catalogue names of the parts it can put in place; empty when it changes a sublayer without putting in a part.
    builds: ClassVar[tuple[str, ...]] = ()
    #: Budgets it can help with.
    saves: ClassVar[tuple[str, ...]] = ("latency", "params", "bytes", "flops")
    #: Whether local distillation after `build` is worth its time.
    distils: ClassVar[bool] = False

    def unsupported_reason(self, view: SublayerView) -> str | None:
        """Why the method does not apply at this site, in plain words; None when it does."""
        return None

    @abstractmethod
    def options(self, view: SublayerView) -> list[Settings]:
        """The settings offered here, mildest first. JSON only."""

    def error(self, view: SublayerView, settings: Settings, replacement: Replacement) -> float:
        """The candidate's local error; a method whose candidate reaches beyond its site measures it itself."""
        return view.local_error(replacement)

    @abstractmethod
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        """The replacement for these settings, fitted in closed form. Must not change the model."""


def weight_and_bias(module: Any) -> tuple[Tensor, Tensor | None]:
    """(d_out, d_in) weight and (d_out) bias of an `nn.Linear` or a transposed `Conv1D`, detached."""
    weight, bias = module.weight.detach(), module.bias
    if not isinstance(module, nn.Linear):
        weight = weight.T.contiguous()
    return weight, None if bias is None else bias.detach()


def candidate_id(site: str, method: str, settings: Settings) -> str:
    """ "layers.3.ffn/width/keep=0.5": stable, readable, and the file name of the candidate."""
    text = ",".join(f"{k}={v}" for k, v in sorted(settings.items()))
    return f"{site}/{method}/{text or 'default'}"
