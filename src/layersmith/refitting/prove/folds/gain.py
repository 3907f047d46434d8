"""Move every norm's gain and bias into the linear maps that read the norm; the gain is one afterwards.

    W (g * n(x) + b) + c  =  (W diag(g)) n(x) + (c + W b)

for q, k, v, gate, up, an untied head, ... The bias moves where every reader has a bias to put it into; elsewhere the
norm keeps b / g, as long as no gain is zero. The function and the architecture stay the same: a folded Llama is a
Llama.

Paper: none; common practice before rotating or quantizing a model. When it pays: not by itself, the norm still
multiplies by ones. Rounding the weights afterwards sees them at the scale at which they act, and a norm without a
gain commutes with rotations of the stream.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.trace import Trace, record
from layersmith.errors import UserError
from layersmith.refitting.prove.folds.fold import Fold, other_names, proved, rounded
from layersmith.refitting.prove.folds.stream import PASSING

#: Looser than `fold.PROOF`: the RMSNorms of transformers compute in float32 whatever comes in, Gemma's with the gain.
PROOF = 1e-6


def fold_gain(model: nn.Module, anatomy: Anatomy) -> Fold:
    """The model with the gains of its norms folded into their readers, as a proved `Fold`. The model is not changed.

    Norms that feed something else than linear maps are left as they are and named in the notes, with the reason.
    Raises UserError when nothing can be folded, or when the proof fails.
    """
    trace = record(model, example_inputs(model))
    return proved(model, lambda model: _fold(model, anatomy, trace), PROOF)


class Left(Exception):
    """This norm cannot be folded; the message says why."""


@dataclass(frozen=True)
class _Gain:
    """A norm that computes gain * n(x) + bias; `neutral` is what its weight is for a gain of one (Gemma: zero)."""

    path: str
    gain: Tensor
    bias: Tensor | None
    neutral: float


@torch.no_grad()
def _fold(model: nn.Module, anatomy: Anatomy, trace: Trace) -> Fold:
    weights: dict[str, Tensor] = {}
    notes = []
    for site in anatomy.of_kind("norm"):
        try:
            gain = _gain(model, site)
            weights |= _folded(model, gain, readers_of(model, trace, site.modules[0]))
        except Left as reason:
            notes.append(f"{site.name} keeps its gain: {reason}.")
    if not weights:
        raise UserError(f"No norm's gain can be folded into linear maps. {' '.join(notes)}")
    return Fold(weights, notes=tuple(notes))


def _folded(model: nn.Module, norm: _Gain, readers: list[str]) -> dict[str, Tensor]:
    """New values for the norm and its readers."""
    linears: dict[str, Any] = {path: model.get_submodule(path) for path in readers}
    new = {f"{norm.path}.weight": torch.full_like(model.get_parameter(f"{norm.path}.weight"), norm.neutral)}
    moves = all(linear.bias is not None for linear in linears.values())
    if norm.bias is not None and not moves and bool((norm.gain == 0).any()) and bool((norm.bias != 0).any()):
        raise Left("it has a bias, a reader without one, and a gain of zero that the bias cannot be divided by")
    for path, linear in linears.items():
        transposed = not isinstance(linear, nn.Linear)  # Conv1D keeps (in, out)
        gain = norm.gain[:, None] if transposed else norm.gain
        new[f"{path}.weight"] = rounded(linear.weight.double() * gain, linear.weight)
        if norm.bias is not None and moves:
            matrix = linear.weight.double().T if transposed else linear.weight.double()
            new[f"{path}.bias"] = rounded(linear.bias.double() + matrix @ norm.bias, linear.bias)
    if norm.bias is not None:
        old = model.get_parameter(f"{norm.path}.bias")
        kept = torch.where(norm.bias == 0, 0.0, norm.bias / norm.gain)
        new[f"{norm.path}.bias"] = torch.zeros_like(old) if moves else rounded(kept, old)
    return new


def _gain(model: nn.Module, site: Site) -> _Gain:
    """How the norm scales and shifts, found by setting its weight to one, or to zero, and looking."""
    (path,) = site.modules
    norm: Any = model.get_submodule(path)
    own = {name: p for name, p in norm.named_parameters() if p.shape == (site.d_model,)}
    if "weight" not in own or not own.keys() <= {"weight", "bias"}:
        raise Left(f"its parameters ({', '.join(own) or 'none'}) are not a weight and possibly a bias")
    for name in own:
        if other_names(model, f"{path}.{name}"):
            raise Left("its gain is shared with another norm")
    weight, bias = norm.weight.double(), own["bias"].double() if "bias" in own else None
    bare = copy.deepcopy(norm).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, site.d_model, generator=generator, dtype=torch.float64, device="cpu").to(weight.device)
    expected = bare(x)
    if bias is not None:
        bare.bias.zero_()
    for neutral, gain in ((1.0, weight), (0.0, 1 + weight)):
        bare.weight.fill_(neutral)
        ours = bare(x) * gain + (0 if bias is None else bias)
        if (ours - expected).abs().max() <= 1e-6 * expected.abs().max():
            return _Gain(path, gain, bias, neutral)
    raise Left("its weight is not a gain on what it computes")


def readers_of(model: nn.Module, trace: Trace, path: str) -> list[str]:
    """The linear maps that read the norm's output, when nothing else does and they read nothing else."""
    written = {c.outputs[0].value for c in trace.calls if c.path == path}
    readers: list[str] = []
    for op in trace.ops:
        if written.isdisjoint(op.inputs):
            continue
        call = trace.calls[op.call]
        linear = isinstance(call.module, nn.Linear) or type(call.module).__name__ == "Conv1D"
        if op.name in PASSING and len(op.inputs) == 1:
            written |= set(op.outputs)
        elif linear and op.heavy:
            readers.append(call.path)
        else:
            raise Left(f"{call.path or 'the model'} ({type(call.module).__name__}) does more with it than a linear map")
    for reader in dict.fromkeys(readers):
        if any(c.inputs[0].value not in written for c in trace.calls if c.path == reader):
            raise Left(f"{reader} reads other things too")
        shared = other_names(model, f"{reader}.weight")
        if shared:
            raise Left(f"{reader}, which reads it, shares its weights with {shared[0]}")
    if not readers:
        raise Left("no linear map reads it")
    return list(dict.fromkeys(readers))
