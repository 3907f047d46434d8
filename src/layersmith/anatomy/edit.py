"""How a model is changed, written down: an `Edit` puts one new module at one module path.

A candidate, a swap and a saved model all use the same list of edits. The list is JSON; the weights of the new
modules live in the model's own state dict. So a refitted model is: the base model's config + edits + safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from layersmith import catalogue
from layersmith.anatomy.adapters import open_up
from layersmith.anatomy.calls import wrap
from layersmith.anatomy.stand_in import install_recorders, take_over
from layersmith.errors import UserError


@dataclass(frozen=True)
class Edit:
    """One replaced module.

    path  module path inside the model, e.g. "model.layers.3.mlp" or "model.layers.3.mlp.down_proj"
    spec  catalogue spec of the new module ({"name": "identity"} to take a module out)
    call  how the surrounding code calls it: {} when it takes and returns one tensor; otherwise the calling
          convention `anatomy.calls.wrap` needs, e.g. {"style": "attention", "layer_idx": 3, "outputs": 2}
    """

    path: str
    spec: dict[str, Any]
    call: dict[str, Any]

    @property
    def inside(self) -> str:
        """The path under which the new module's own parts stand: a calling convention wraps it (`anatomy.calls`)."""
        return f"{self.path}.operator" if self.call else self.path

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Edit:
        """The edit described by `to_json`; a UserError for anything else."""
        call = data.get("call", {}) if isinstance(data, dict) else None
        if (
            not isinstance(call, dict)
            or not isinstance(data.get("path"), str)
            or not isinstance(data.get("spec"), dict)
        ):
            raise UserError(f"An edit has a 'path' (text), a 'spec' and a 'call' (objects); this one is {data!r}.")
        return Edit(path=data["path"], spec=data["spec"], call=call)


#: Edits with the modules that carry their weights: what a method returns and what a candidate stores.
#: The module is the bare operator; the calling convention is added when it is put into a model.
Replacement = list[tuple[Edit, nn.Module]]


def build_module(edit: Edit, trust_remote_code: bool = False) -> nn.Module:
    """A freshly initialised operator for the edit (its weights come from a state dict afterwards)."""
    return catalogue.build(edit.spec, trust_remote_code=trust_remote_code)


def apply(model: nn.Module, replacement: Replacement) -> dict[str, nn.Module]:
    """Put every module at its path, in place. Returns what stood there, for `restore`.

    Edits are made in order: one may replace a part of what an earlier one put there. After an error the model is as
    it was. What is put there is looked at and recorded like what stood there (`stand_in`), and a weight that was tied
    to another module's and comes back unchanged stays tied.
    """
    for edit, module in replacement:
        if not isinstance(module, nn.Module):
            raise UserError(
                f"What is to stand at {edit.path!r} is {module!r}, not a torch.nn.Module. To take a sublayer out, put "
                f'the part "zero" there.'
            )
    open_up(model)  # paths are those of the opened model; one that was just built is still closed
    install_recorders(model)
    before: dict[str, nn.Module] = {}
    try:
        for edit, module in replacement:
            if edit.path in before:
                raise UserError(
                    f"Two edits of one model both replace {edit.path!r}; combine candidates of different sites."
                )
            placed = wrap(module, edit.call)
            before[edit.path] = _set(model, edit.path, placed)
            take_over(placed, before[edit.path])
            _keep_tied(model, placed, before[edit.path])
    except BaseException:
        restore(model, before)
        raise
    return before


def combined(earlier: Sequence[Edit], later: Sequence[Edit]) -> list[Edit]:
    """The edits of a model that was edited twice. Later ones win: an earlier one of the same module, or of a part of
    it, is left out."""
    replaced = tuple(edit.path for edit in later)
    kept = [e for e in earlier if not any(e.path == path or e.path.startswith(f"{path}.") for path in replaced)]
    return [*kept, *later]


def restore(model: nn.Module, before: dict[str, nn.Module]) -> None:
    """Undo `apply`. What can be put back is, whatever happened to the rest."""
    lost: list[UserError] = []
    for path, module in reversed(before.items()):  # a part of a replaced module goes before the whole
        try:
            _set(model, path, module)
        except UserError as error:
            lost.append(error)
    if lost:
        raise lost[0]


def _keep_tied(model: nn.Module, new: nn.Module, old: nn.Module) -> None:
    """A copy of the old weight becomes that weight itself where another module holds it too: an embedding, a head's."""
    copied, weight = new._parameters.get("weight"), old._parameters.get("weight")
    if copied is None or weight is None or copied is weight or copied.is_meta or copied.shape != weight.shape:
        return
    held = any(parameter is weight for module in model.modules() for parameter in module._parameters.values())
    if held and copied.dtype == weight.dtype and copied.device == weight.device and torch.equal(copied, weight):
        new._parameters["weight"] = weight


def _set(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    parent_path, _, child = path.rpartition(".")
    try:
        siblings = model.get_submodule(parent_path)._modules
    except AttributeError:
        siblings = {}
    old = siblings.get(child)
    if old is None:
        raise UserError(f"The model has no module at {path!r}; was the edit made for another model?")
    siblings[child] = module
    return old
