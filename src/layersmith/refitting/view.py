"""What a method may look at: one sublayer with its weights and its recorded calls, in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy.edit import Edit, Replacement, apply, restore
from layersmith.anatomy.observe import in_float32
from layersmith.anatomy.recognise import as_attention, as_ffn
from layersmith.anatomy.span import original
from layersmith.anatomy.stream import NoSum
from layersmith.anatomy.swap import replacement_for
from layersmith.contract import Operator


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
        """The rows of a (B, T, D) tensor at real tokens, as (tokens, D); OPT's feed-forward is given (B * T, D)."""
        rows = x.reshape(-1, x.shape[-1])
        return rows if self.mask is None else rows[self.mask.flatten()]

    def in_float32(self) -> Call:
        """The same call with every floating-point tensor in float32."""
        args, kwargs = in_float32(self.args), in_float32(self.kwargs)
        return replace(self, args=args, kwargs=kwargs, input=self.input.float(), output=self.output.float())


def _no_stream(calls: list[Call], blocks: int) -> list[Tensor]:
    raise ValueError("This model's blocks cannot be run alone, so the stream between them was not kept.")


def _no_residual(calls: list[Call]) -> list[tuple[Tensor, Tensor]]:
    raise NoSum("what the rest of its block does was not kept")


@dataclass
class SublayerView:
    """Everything a method may use at one site, all of it in float32, whatever the model's own dtype.

    Fits in half precision are not worth having, and a mixture of dtypes does not run. So a sublayer that is not
    float32 is worked on as a float32 copy, which stands in the model only while the view runs it. What was made
    returns to the dtype of its place by `as_stored`. Activations are flattened over real tokens.

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
    #: How many streams were kept from that which enters the site's block on, and (calls, n) -> what enters the n-th
    #: block after this one. 0 where blocks cannot be run alone.
    streams: int = 0
    stream: Callable[[list[Call], int], list[Tensor]] = field(default=_no_stream)
    #: calls -> for each what of the stream the sublayer reads, before any norm, and what it adds to it, behind any norm
    #: of its own. Raises `NoSum` where the sublayers of its block do not add up to what the block gives.
    residual: Callable[[list[Call]], list[tuple[Tensor, Tensor]]] = field(default=_no_residual)
    seed: int = 0
    #: What stands at the site instead of the original, in float32; nothing, but in a view made by `after`.
    placed: Replacement = field(default_factory=list)
    #: Of what enters the sublayer in the model.
    dtype: torch.dtype = field(init=False)
    _made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dtype = self.fit[0].input.dtype
        self.fit = [call.in_float32() for call in self.fit]
        self.holdout = [call.in_float32() for call in self.holdout]

    @property
    def blocks_after(self) -> int:
        """How many blocks follow whose outputs were kept."""
        return max(0, self.streams - 2)

    @property
    def device(self) -> torch.device:
        """Where the sublayer runs, and where all that a method makes belongs: what torch makes unasked is elsewhere."""
        return self.fit[0].input.device

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, computed once per view: for what all settings of a method, or several methods, share."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def after(self, replacement: Replacement) -> SublayerView:
        """The sublayer as a replacement of it leaves it, for what works on weight matrices alone.

        Its weight matrices, and the moments of what enters them, are those inside the replacement and those that it
        leaves alone. Calls, and with them the error, stay those of the original.
        """
        changed = copy.copy(self)
        changed.placed, changed._made = [(edit, module.float()) for edit, module in replacement], {}
        vars(changed).pop("_moments", None)
        return changed

    @cached_property
    def _copies(self) -> Replacement:
        """Float32 copies of the sublayer's modules, for their own places; none where they are float32 already."""
        modules = {path: self.model.get_submodule(path) for path in self.site.modules}
        tensors = [t for m in modules.values() for t in [*m.parameters(), *m.buffers()] if t.is_floating_point()]
        if all(t.dtype == torch.float32 for t in tensors):
            return []
        return [(Edit(path, {}, {}), copy.deepcopy(module).float()) for path, module in modules.items()]

    @cached_property
    def original(self) -> nn.Module:
        """The sublayer as one callable module. Read only: copy before changing anything."""
        with standing(self.model, self._copies):
            return original(self.model, self.site)

    @cached_property
    def inputs(self) -> Tensor:
        """(tokens, D) what entered the sublayer on the fit calls."""
        return torch.cat([c.real(c.input) for c in self.fit])

    @cached_property
    def outputs(self) -> Tensor:
        """(tokens, D) what left it. For a block: with the residual."""
        return torch.cat([c.real(c.output) for c in self.fit])

    @cached_property
    def targets(self) -> Tensor:
        """(tokens, D) what a replacement operator has to produce: the outputs, less the residual for a block."""
        return self.outputs - self.inputs if self.site.kind == "block" else self.outputs

    @cached_property
    def ffn(self) -> Any:
        """The site `Recognised` as our `GLU` or `MLP` with equal outputs, or None when it is not one."""
        return _with_float32_operator(as_ffn(self.model, self.site))

    @cached_property
    def attention(self) -> Any:
        """The site `Recognised` as our `SoftmaxAttention` with equal outputs, or None when it is not one."""
        return _with_float32_operator(as_attention(self.model, self.site))

    def linears(self) -> dict[str, nn.Module]:
        """Model path -> weight matrices inside the site (`nn.Linear`, transformers' `Conv1D`)."""
        with standing(self.model, self._copies):
            found = _matrices({path: self.model.get_submodule(path) for path in self.site.modules})
        gone = tuple(f"{edit.path}." for edit, _ in self.placed)
        kept = {path: module for path, module in found.items() if not f"{path}.".startswith(gone)}
        return kept | _matrices({edit.inside: module for edit, module in self.placed})

    def used_linears(self) -> dict[str, nn.Module]:
        """Those of `linears` that ran on the fit calls (Longformer's global ones wait for global tokens)."""
        return {path: module for path, module in self.linears().items() if path in self.grams}

    @property
    def grams(self) -> dict[str, Tensor]:
        """For each of `used_linears`: X^T X / tokens of its inputs on the fit calls, (d_in, d_in) float32."""
        return self._moments[0]

    @property
    def means(self) -> dict[str, Tensor]:
        """For each of `used_linears`: the mean of its inputs on the fit calls, (d_in,) float32."""
        return self._moments[1]

    @property
    def largest(self) -> dict[str, Tensor]:
        """For each of `used_linears`: the largest magnitude of each of its inputs on the fit calls, (d_in,) float32."""
        return self._moments[2]

    @cached_property
    def _moments(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        linears = self.linears()
        squares: dict[str, Tensor] = {}
        largest: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        current: list[Call] = []

        def recorder(path: str) -> Callable[..., None]:
            def record(module: nn.Module, args: tuple[Any, ...]) -> None:
                x = args[0]
                x = x.reshape(-1, x.shape[-1]).float()
                if current[0].mask is not None and len(x) == current[0].mask.numel():
                    x = x[current[0].mask.flatten()]
                squares[path] = squares.get(path, 0) + x.T @ x
                sums[path] = sums.get(path, 0) + x.sum(0)
                counts[path] = counts.get(path, 0) + len(x)
                peaks = x.abs().amax(0) if len(x) else x.new_zeros(x.shape[-1])
                largest[path] = torch.maximum(largest[path], peaks) if path in largest else peaks

            return record

        hooks = [m.register_forward_pre_hook(recorder(p)) for p, m in linears.items()]
        try:
            with torch.no_grad():
                for call in self.fit:
                    current[:] = [call]
                    self.run(self.placed, [call])
        finally:
            for hook in hooks:
                hook.remove()
        return {p: squares[p] / counts[p] for p in counts}, {p: sums[p] / counts[p] for p in counts}, largest

    def as_replacement(self, operator: Operator) -> Replacement:
        """The replacement that puts one operator at this site, with the site's calling convention."""
        return replacement_for(self.model, self.site, operator)

    def run(self, replacement: Replacement, calls: list[Call]) -> list[Tensor]:
        """Float32 outputs of the edited sublayer on recorded calls (gradients flow when enabled)."""
        with standing(self.model, self._copies), standing(self.model, replacement):
            edited = original(self.model, self.site)
            outputs = [edited(*c.args, **c.kwargs) for c in calls]
        tensors = [o[0] if isinstance(o, tuple | list) else o for o in outputs]
        return [y.reshape(c.output.shape) for y, c in zip(tensors, calls, strict=True)]

    def as_stored(self, replacement: Replacement) -> Replacement:
        """The replacement as it will stand in the model: each module in the dtype of its place, for evaluation."""
        return [(edit, module.to(self._dtype_at(edit.path)).eval()) for edit, module in replacement]

    def _dtype_at(self, path: str) -> torch.dtype:
        """What stands for a sublayer gets what enters it; a matrix inside one is as the matrix it replaces."""
        inside = path not in self.site.modules
        if inside and path not in dict(self.model.named_modules()):  # a part of what was put in the sublayer's place
            return self.dtype
        floats = [p.dtype for p in self.model.get_submodule(path).parameters() if p.is_floating_point()]
        return floats[0] if inside and floats else self.dtype

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


@contextmanager
def standing(model: nn.Module, replacement: Replacement) -> Iterator[None]:
    """The model with the replacement in place, until the context ends."""
    before = apply(model, replacement)
    try:
        yield
    finally:
        restore(model, before)


def _matrices(tops: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {
        f"{path}.{name}".rstrip("."): module
        for path, top in tops.items()
        for name, module in top.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }


def _with_float32_operator(found: Any) -> Any:
    """What was recognised, its operator (a copy of the model's weights) in float32."""
    return found and replace(found, operator=found.operator.float())
