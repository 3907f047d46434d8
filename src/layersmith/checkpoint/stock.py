"""Writes an edited model in the stock architecture, where that can express it: dropped blocks, one uniform width.

A model saved this way loads with plain transformers and runs on every server and phone that runs the original. What
the edits amount to is worked out here; whether the stock model built from it is really the same is measured.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from layersmith.anatomy import Site, find_sites
from layersmith.anatomy.calls import AttentionCall
from layersmith.anatomy.edit import Edit
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.recognise import Recognised, as_ffn
from layersmith.anatomy.running import evaluating
from layersmith.checkpoint.companions import copy_companions, strip_code
from layersmith.checkpoint.config import stock_class
from layersmith.checkpoint.dtypes import stored_dtypes
from layersmith.checkpoint.folder import written_whole
from layersmith.checkpoint.shared import shared_modules
from layersmith.errors import UserError

#: Relative difference allowed between the edited model and its stock form: the same sums in another order.
TOLERANCE, HALF_TOLERANCE = 1e-5, 2e-2
#: The config attributes for depth and for feed-forward width, by stack ("" when there is only one).
_DEPTHS = {
    "": ("num_hidden_layers",),
    "encoder": ("encoder_layers", "num_layers", "num_hidden_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
_WIDTHS = {
    "": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim"),
    "encoder": ("encoder_ffn_dim", "d_ff"),
    "decoder": ("decoder_ffn_dim", "d_ff"),
}


class _NotStock(Exception):
    """The stock architecture cannot express the model; the message says why."""


def export_stock(
    edited: PreTrainedModel,
    original: PreTrainedModel,
    edits: Sequence[Edit],
    path: str | os.PathLike[str],
    tokenizer: Any = None,
) -> str:
    """Save `edited` to the folder `path` in the architecture of `original`; "" when done, else the reason why not.

    edited  a copy of `original` with the edits applied (and possibly trained further)

    The weights are stored in the dtypes that the source of `original` has; what lies beside its weights is kept, except
    Python code and what points to it.
    """
    try:
        if stock_class(type(original).__name__) is not type(original):
            return f"{type(original).__name__} only shares its name with a class of transformers"
        export = _Export(edited, original, edits)
        stock = export.stock()
        with written_whole(path) as folder:
            _write(stock, export.dtypes.main, folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(str(folder))
            copy_companions(original.name_or_path or "", folder)
            strip_code(folder)
    except (_NotStock, UserError) as reason:
        return str(reason)
    return ""


def generation_settings(model: PreTrainedModel, config: PreTrainedConfig) -> Any:
    """The generation settings of a model, with those moved in that stand in its `config` but are no fields of it.

    (transformers refuses to save a config that has some.)
    """
    settings = copy.deepcopy(model.generation_config)
    for name, value in config._get_generation_parameters().items():
        if getattr(settings, name, None) is None:
            setattr(settings, name, value)
        delattr(config, name)
    return settings


def _write(stock: PreTrainedModel, main: torch.dtype, folder: Path) -> None:
    """What transformers cannot write of a model it can hold is one more reason, not an error."""
    try:
        stock.save_pretrained(folder)
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["dtype"] = str(main).removeprefix("torch.")  # not that of whatever tensor comes first
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    except OSError:
        raise
    except Exception as error:
        raise _NotStock(f"transformers does not save it: {' '.join(str(error).split())[:300]}") from error


class _Export:
    """One attempt. The steps are methods, each raising _NotStock when it meets something it cannot express."""

    def __init__(self, edited: PreTrainedModel, original: PreTrainedModel, edits: Sequence[Edit]):
        self.edited, self.original = edited, original
        self.names = {edit.path: str(edit.spec.get("name")) for edit in edits}
        self.anatomy = find_sites(original)
        self.settings: dict[str, Any] = original.config.to_dict()
        self.dtypes = stored_dtypes(original)

    @torch.no_grad()
    def stock(self) -> PreTrainedModel:
        """The stock model that equals the edited one."""
        if self.original.config.get_text_config() is not self.original.config:
            raise _NotStock("its config is made of several configs")
        dropped = self._dropped_blocks()
        for path, name in self.names.items():
            if any(path.startswith(f"{other}.") for other in self.names):  # a number format inside a new feed-forward
                raise _NotStock(f"{path} has become {name!r}")
        narrowed: dict[str, Recognised] = {}
        for stack in self.anatomy.blocks:
            gone = [site for site in dropped if site.stack == stack]
            self._set_depth(stack, {site.layer for site in gone})
            narrowed |= self._set_width(stack, {site.name for site in gone})
        if self.names:
            path, name = next(iter(self.names.items()))
            raise _NotStock(f"{path} has become {name!r}")
        config = type(self.original.config).from_dict(self.settings)
        stock = type(self.original)._from_config(config, dtype=self.edited.dtype)
        tensors, origins = self._tensors(dropped, narrowed)
        if len(shared_modules(stock)) != len(shared_modules(self.edited)):
            raise _NotStock("one of its modules stands at several places")
        try:
            stock.load_state_dict(tensors)
        except RuntimeError as error:
            raise _NotStock(" ".join(str(error).split())[:300]) from error
        stock.to(self.edited.device).eval()
        if stock.can_generate():
            stock.generation_config = generation_settings(self.edited, stock.config)
        self._check_equal(stock)
        for name, parameter in [*stock.named_parameters(), *stock.named_buffers()]:
            if name in origins:
                parameter.data = parameter.data.to(self.dtypes.of(origins[name], parameter))
        return stock

    def _dropped_blocks(self) -> list[Site]:
        """Blocks that are zero as a whole, or whose every sublayer is. Their edits are dealt with."""
        dropped = []
        for block in self.anatomy.of_kind("block"):
            inside = [s for s in self.anatomy.in_block(block.name) if s.kind in ("ffn", "mixer")]
            zero = [s for s in (block, *inside) if self.names.get(s.modules[0]) == "zero"]
            if block in zero or (inside and len(zero) == len(inside)):
                if block.calls > 1:
                    raise _NotStock("its blocks share their weights")
                dropped.append(block)
                top = f"{block.modules[0]}."
                self.names = {path: name for path, name in self.names.items() if not f"{path}.".startswith(top)}
        return dropped

    def _set_depth(self, stack: str, gone: set[int]) -> None:
        blocks = self.anatomy.blocks[stack]
        if not gone:
            return
        if len(gone) == len(blocks):
            raise _NotStock("no block is left")
        self.settings[self._key(_DEPTHS, stack, len(blocks))] = len(blocks) - len(gone)
        for key in ("stage_names", "out_features", "out_indices"):  # numbered by the old depth; made anew
            self.settings.pop(key, None)
        for key, value in self.settings.items():
            if key.endswith("_types") and isinstance(value, list) and len(value) == len(blocks):
                self.settings[key] = [kind for layer, kind in enumerate(value) if layer not in gone]

    def _set_width(self, stack: str, gone: set[str]) -> dict[str, Recognised]:
        """Write the common width of the feed-forwards that stay; returns the originals of those that were replaced."""
        sites = [s for s in self.anatomy.of_kind("ffn") if s.stack == stack and s.block not in gone]
        changed = [s for s in sites if self.names.get(s.modules[0]) in ("glu", "mlp")]
        if not changed:
            return {}
        originals = {site.name: as_ffn(self.original, site) for site in sites}
        unknown = [name for name, ffn in originals.items() if ffn is None]
        if unknown:
            raise _NotStock(f"{unknown[0]} is neither a plain nor a gated feed-forward")
        found = {name: ffn for name, ffn in originals.items() if ffn is not None}
        for site in changed:
            if type(self._operator(site)) is not type(found[site.name].operator):
                raise _NotStock(f"{site.name} has become {self._operator(site).spec()['name']!r}")
        before = {_width(ffn.operator) for ffn in found.values()}
        after = {_width(self._operator(s) if s in changed else found[s.name].operator) for s in sites}
        if len(after) > 1:
            raise _NotStock(f"its feed-forwards have different widths ({', '.join(map(str, sorted(after)))})")
        if before != after:
            self.settings[self._key(_WIDTHS, stack, before.pop())] = after.pop()
        covered = {path for site in changed for path in site.modules}
        self.names = {path: name for path, name in self.names.items() if path not in covered}
        return {site.name: found[site.name] for site in changed}

    def _key(self, names: dict[str, tuple[str, ...]], stack: str, value: int) -> str:
        """The key of the config that holds this value (GPT-2 keeps None for the usual width)."""
        aliases = self.original.config.attribute_map
        keys = [aliases.get(name, name) for name in names.get(stack, ())]
        found = [key for key in keys if key in self.settings and self.settings[key] in (value, None)]
        if not found:
            raise _NotStock(f"its config does not say {value} where it is known to")
        return found[0]

    def _operator(self, site: Site) -> Any:
        """Our MLP or GLU that stands at the site in the edited model."""
        module = self.edited.get_submodule(site.modules[0])
        return module.operator if isinstance(module, AttentionCall) else module

    def _tensors(
        self, dropped: list[Site], narrowed: dict[str, Recognised]
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The stock model's state dict: what stays, under its new block number, and our weights in their places.

        Beside it, the name that each tensor has in the original.
        """
        out = [f"{site.modules[0]}." for site in dropped]
        out += [f"{path}." for name in narrowed for path in self.anatomy.site(name).modules]
        tensors = {k: t for k, t in self.edited.state_dict().items() if not k.startswith(tuple(out))}
        for name, original in narrowed.items():
            operator = self._operator(self.anatomy.site(name))
            for part, path in original.parts.items():
                target = self.original.get_submodule(path)
                weight, bias = _of_part(operator, original.operator, part, target)
                tensors[f"{path}.weight"] = weight.T if type(target).__name__ == "Conv1D" else weight
                if target.bias is not None and bias is not None:
                    tensors[f"{path}.bias"] = bias
        origins = {name: name for name in tensors}
        gone = {site.modules[0] for site in dropped}
        for blocks in self.anatomy.blocks.values():
            stay = [path for path in blocks if path not in gone]
            for new, path in zip(blocks, stay, strict=False):  # in ascending order, so nothing is overwritten
                moved = [k for k in tensors if k.startswith(f"{path}.")] if new != path else []
                for key in moved:
                    tensors[new + key.removeprefix(path)] = tensors.pop(key)
                    origins[new + key.removeprefix(path)] = origins.pop(key)
        return tensors, origins

    def _check_equal(self, stock: PreTrainedModel) -> None:
        """_NotStock unless the stock model computes what the edited one does."""
        inputs = example_inputs(self.original)
        with evaluating(self.edited), evaluating(stock):
            expected, found = self.edited(**inputs)[0], stock(**inputs)[0]
        if not isinstance(expected, Tensor):
            raise _NotStock("its first output is not a tensor that could be compared")
        difference = (found - expected).abs().max()
        tolerance = HALF_TOLERANCE if expected.dtype.itemsize < 4 else TOLERANCE
        if not difference <= tolerance * expected.abs().max():
            raise _NotStock(f"built in the stock architecture it computes something else (by {float(difference):.2g})")
        try:
            stock(**{name: value for name, value in inputs.items() if isinstance(value, Tensor)})
        except Exception as error:  # RecurrentGemma without its last attention cannot make itself a cache
            said = " ".join(str(error).split())[:300]
            raise _NotStock(f"built in the stock architecture it does not run with a cache: {said}") from error


def _width(ffn: Any) -> int:
    return ffn.down.in_features


def _of_part(operator: nn.Module, original: Any, part: str, target: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias that `target`, the original's module for `part`, would have; "gate_up" is two in one."""
    names = part.split("_")
    if len(names) == 2 and not torch.equal(target.weight[: _width(original)], original.get_submodule(names[0]).weight):
        names.reverse()
    linears: list[Any] = [operator.get_submodule(name) for name in names]
    weight = torch.cat([linear.weight for linear in linears])
    return weight, None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
