"""What a fold is, how it is put into a model, and the proof that the model's function stays the same.

    fold = pre_rms_norm.fold(model, anatomy)
    undo = fold.apply(model)
    checkpoint.save(model, fold.written, path)       # or undo(), and the model is as it was

A fold needs more than a `Replacement`: a centred embedding table, say, is the same module with other numbers in it.
Such numbers need no edit, since a saved model stores all weights by name; edits are for parts of another kind. That a
head no longer shares the embedding's table is said by the stock config (`tie_word_embeddings`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from layersmith.anatomy.edit import Edit, Replacement, apply, restore
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError

#: Largest difference of the first output, relative to its largest entry. In float64, only the mathematics can differ.
PROOF = 1e-9
#: The same in the model's own precision: the same sums, rounded at other places.
TOLERANCE, HALF_TOLERANCE = 1e-5, 2e-2


@dataclass(frozen=True)
class Fold:
    """A change of a model that leaves its function as it is.

    weights  parameter name -> new values: same shape, dtype and device
    edits    modules that become parts of another kind
    unties   some of these weights were shared with a head, which keeps the old ones; the config has to say so
    notes    what was left as it was, or is paid for the fold, in plain words
    """

    weights: dict[str, Tensor]
    edits: Replacement = field(default_factory=list)
    unties: bool = False
    notes: tuple[str, ...] = ()

    @property
    def written(self) -> list[Edit]:
        """The edits to save the folded model with."""
        return [edit for edit, _ in self.edits]

    def apply(self, model: nn.Module) -> Callable[[], None]:
        """Change the model in place; returns the function that undoes it. After an error the model is as it was.

        A parameter that was shared is replaced only under the names in `weights`.
        """
        old = {name: _set(model, name, value) for name, value in self.weights.items()}
        try:
            before = apply(model, self.edits)
        except UserError:
            _put_back(model, old)
            raise
        tied = _tied_configs(model) if self.unties else []
        for config in tied:
            config.tie_word_embeddings = False

        def undo() -> None:
            for config in tied:
                config.tie_word_embeddings = True
            restore(model, before)
            _put_back(model, old)

        return undo


def proved(model: nn.Module, make: Callable[[nn.Module], Fold], proof: float = PROOF) -> Fold:
    """The fold that `make` finds for the model, once it has been shown to change nothing that the model computes.

    It is made for a float64 copy and tried out there (which for a moment takes two to three times the memory of a
    float32 model), then made for the model itself and tried out in its own precision.
    Raises UserError when either differs by more than rounding, or when the model does not run in float64.
    """
    fold = make(model)  # first: it raises, before anything large is copied, where there is nothing to fold
    twin = copy.deepcopy(model).double()
    inputs = example_inputs(twin)
    try:
        with evaluating(twin):
            expected = _first(twin(**inputs))
    except RuntimeError as error:  # kernels made for half precision only: grouped products of experts, quantized maps
        raise UserError(
            f"{type(model).__name__} does not run in float64, where a fold would have to be proved: {error}"
        ) from error
    _check(twin, make(twin), inputs, expected, proof)
    del twin
    inputs = example_inputs(model)
    with evaluating(model):
        expected = _first(model(**inputs))
    half = any(p.is_floating_point() and p.dtype.itemsize < 4 for p in model.parameters())
    _check(model, fold, inputs, expected, HALF_TOLERANCE if half else TOLERANCE)
    return fold


def rounded(exact: Tensor, like: Tensor) -> Tensor:
    """A float64 result in the dtype of the weight it replaces."""
    return exact.to(like.dtype).contiguous()


def other_names(model: nn.Module, name: str) -> list[str]:
    """Further names under which the parameter is used: a head tied to the embedding."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return [other for other, p in parameters.items() if p is parameters[name] and other != name]


def _check(model: nn.Module, fold: Fold, inputs: dict[str, Any], expected: Tensor, tolerance: float) -> None:
    undo = fold.apply(model)
    try:
        with evaluating(model):
            folded = _first(model(**inputs))
    finally:
        undo()
    size = float(expected.abs().max())
    wrong = float((folded - expected).abs().max())
    if not wrong <= tolerance * size:
        raise UserError(
            f"The fold was tried out and changes what {type(model).__name__} computes: by {wrong:.2g} in "
            f"{expected.dtype}, where outputs go up to {size:.2g}. Something in this model uses the weights in a way "
            f"the fold does not know, so it is not offered."
        )


def _first(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def _tied_configs(model: nn.Module) -> list[Any]:
    """Every config in the model by which it would be saved, and loaded, with head and embedding as one."""
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    return [config for config in configs if getattr(config, "tie_word_embeddings", False)]


def _set(model: nn.Module, name: str, value: Tensor) -> nn.Parameter:
    old = model.get_parameter(name)
    path, _, own = name.rpartition(".")
    # A new parameter, not new numbers in the old one: that may be shared with something that is to keep them.
    model.get_submodule(path)._parameters[own] = nn.Parameter(value, requires_grad=old.requires_grad)
    return old


def _put_back(model: nn.Module, old: dict[str, nn.Parameter]) -> None:
    for name, parameter in old.items():
        path, _, own = name.rpartition(".")
        model.get_submodule(path)._parameters[own] = parameter
