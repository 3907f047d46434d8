"""The Hugging Face classes of an edited model: a stock model with some modules replaced, saved and loaded as one.

    config.json            {"model_type": "layersmith", "base_class": "LlamaForCausalLM", "base_config": {...},
                            "edits": [{"path": "model.layers.3.mlp", "spec": {"name": "glu", ...}, "call": {}}, ...]}
    model.safetensors      all weights, those of the replaced modules included
    modeling_layersmith.py two lines that point here, for processes that never imported layersmith

Loading builds the stock class from its config, puts freshly built parts at the edited paths, and reads the weights.
What a config may name is limited: classes that transformers itself exports, and parts of layersmith's catalogue.
"""

from __future__ import annotations

import copy
import inspect
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, GenerationMixin, PreTrainedModel

from layersmith.anatomy.adapters import open_up
from layersmith.anatomy.edit import Edit, apply, build_module
from layersmith.checkpoint.companions import strip_code
from layersmith.checkpoint.config import LayersmithConfig, checked_stock_class, stock_class
from layersmith.checkpoint.shared import share_modules
from layersmith.checkpoint.stored import stored_tensors as stored_on_disk
from layersmith.checkpoint.vetting import check_counts, check_size, skeleton
from layersmith.errors import UserError

#: The Auto classes that open a layersmith checkpoint: all there are, so that each opens what it opens of stock models.
AUTO_CLASSES = tuple(sorted(name for name in dir(transformers) if name.startswith("AutoModel")))
_FILE = "modeling_layersmith"
_FILE_TEXT = '''"""This model has parts that transformers does not know. They come with layersmith:

install it from its repository (`pip install .` there).
"""

from layersmith.checkpoint.hf import OPENED_BY, LayersmithConfig, LayersmithModel

globals().update({model.__name__: model for model in OPENED_BY.values()})
'''


class LayersmithModel(PreTrainedModel, GenerationMixin):
    """A stock model with edits, under `base`. Calling and generating are the stock model's own.

    trust_parts  allow parts that are not in the catalogue ("package.module:Class"): importing them runs them
                 (`trust_remote_code=True` of `from_pretrained`)
    parts_on     device the parts are built on; "meta" builds them without memory
    """

    config_class = LayersmithConfig
    base_model_prefix = "base"
    supports_gradient_checkpointing = True
    # What is really supported is for the stock class to say, which gets the same request.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    #: The Auto class this class is opened by. `AutoModel` opens every checkpoint as what it is.
    opened_by = "AutoModel"

    def __new__(cls, config: Any = None, *args: Any, **kwargs: Any) -> LayersmithModel:
        made: Any = cls
        if config is not None:
            made = _with_signature(made, config.base_class)
        return super().__new__(made)

    def __init__(self, config: LayersmithConfig, trust_parts: bool = False, parts_on: str = "cpu"):
        super().__init__(config)
        stock = checked_stock_class(config)
        self.base: Any = stock(config.base_config)
        self.main_input_name = self.base.main_input_name
        open_up(self.base, keep_names=False)  # the weights are stored under the paths that edits use
        # transformers builds models without memory (on "meta") and fills them; parts may compute while being built.
        edits = [Edit.from_json(edit) for edit in config.edits]
        with torch.device(parts_on):
            replacement = [(edit, build_module(edit, trust_parts)) for edit in edits]
        apply(self.base, replacement)
        share_modules(self.base, config.shared)
        _forget_ties(self.base)
        self.post_init()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class of an object is made for its stock class, so pickle and copy cannot find it by its name.
        return _unfilled, (self.opened_by, self.config.base_class), self.__dict__

    # The signature is the stock model's, whichever that is: arguments go through as they are, here and in generate.
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The stock model's `forward`."""
        return self.base(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The stock model's `generate`."""
        return self.base.generate(*args, **kwargs)

    def get_output_embeddings(self) -> Any:
        """The head of the stock model, so that other libraries see which linear map it is."""
        return self.base.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        self.base.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """The stock model's: it knows its head, and its config is the one saved with the new size."""
        return self.base.resize_token_embeddings(*args, **kwargs)

    def can_generate(self) -> bool:  # type: ignore[override]
        """Whether the stock model generates. (Of an object, not of the class: it depends on the config.)"""
        return "base" in self._modules and self.base.can_generate()

    @property  # type: ignore[override]
    def generation_config(self) -> GenerationConfig | None:
        return self.base.generation_config if self.can_generate() else None

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        self.base.generation_config = value

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As in transformers, but strict: UserError when a weight is missing or belongs nowhere, when the config asks
        for more than what is stored, or when the Auto class that was asked opens models of another kind."""
        with_info = kwargs.pop("output_loading_info", False)
        config = kwargs.pop("config", None) or cls.config_class.from_pretrained(name)
        check_opened_by(cls.opened_by, config)
        trust = bool(kwargs.pop("trust_remote_code", False))  # transformers keeps it from the constructor
        if Path(name).is_dir() and not trust:
            check_bounded(cls, str(name), config)
        options = {**kwargs, "use_safetensors": True, "trust_parts": trust, "output_loading_info": True}
        loaded: Any = super().from_pretrained(name, *args, config=config, **options)
        model, info = loaded
        tensors = model.state_dict(keep_vars=True)
        # One module at two paths is stored once, so under its other path nothing is found, and nothing missing.
        there = {id(tensor) for key, tensor in tensors.items() if key not in info["missing_keys"]}
        missing = {key for key in info["missing_keys"] if key not in tensors or id(tensors[key]) not in there}
        wrong = sorted({*missing, *info["unexpected_keys"]})
        if wrong:
            raise UserError(
                f"The weights in {str(name)!r} do not fit its config.json: {len(wrong)} tensors are missing or belong "
                f"nowhere, {wrong[0]!r} for one. One of the files has been changed or damaged."
            )
        model._renew_tables()
        model._renew_buffers()
        return (model, info) if with_info else model

    def _renew_tables(self) -> None:
        """Compute again what parts keep but do not save (non-persistent buffers), which loading leaves undefined."""
        for edit in map(Edit.from_json, self.config.edits):
            part: Any = self.base.get_submodule(edit.inside)
            stored = stored_tensors(part)
            tables = {name: t for name, t in part.named_buffers() if name not in stored}
            if tables:
                fresh = dict(type(part)(**{k: v for k, v in edit.spec.items() if k != "name"}).named_buffers())
                for name in tables.keys() & fresh.keys():  # a part inside this one has an edit, and a turn, of its own
                    tables[name].copy_(fresh[name])

    def _renew_buffers(self) -> None:
        """Fill what the stock model computes when it is made and no file holds (Falcon-H1's multipliers).

        For classes that are not its own, transformers leaves it undefined, but for rotary frequencies. The few models
        that have such buffers are made once more for them.
        """
        stored, config = stored_tensors(self.base), cast(LayersmithConfig, self.config)
        lost = {n: b for n, b in self.base.named_buffers() if n not in stored and not n.endswith("inv_freq")}
        replaced = tuple(f"{edit['path']}." for edit in config.edits)
        lost = {name: buffer for name, buffer in lost.items() if not name.startswith(replaced)}
        if lost:
            fresh = dict(checked_stock_class(config)(copy.deepcopy(config.base_config)).named_buffers())
            for name in lost.keys() & fresh.keys():
                lost[name].copy_(fresh[name])

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """As in transformers; the folder also loads where layersmith is installed but was never imported."""
        super().save_pretrained(save_directory, **kwargs)
        point_here(Path(save_directory))

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing: see the config's."""


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by module path (tied ones under each of their names).

    Unlike `state_dict`, whose hooks may rename what a module calls its own.
    """
    found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, buffer in owner._buffers.items():
            if buffer is not None and name not in owner._non_persistent_buffers_set:
                found[f"{path}.{name}".lstrip(".")] = buffer
    return found


#: The class that each Auto class opens checkpoints with.
OPENED_BY: dict[str, type[LayersmithModel]] = {
    name: type(name.replace("Auto", "Layersmith", 1), (LayersmithModel,), {"opened_by": name}) for name in AUTO_CLASSES
}
_AUTO_MAP = {
    "AutoConfig": f"{_FILE}.LayersmithConfig",
    **{name: f"{_FILE}.{model.__name__}" for name, model in OPENED_BY.items()},
}


def register() -> None:
    """Make `AutoConfig` and the `AutoModel...` classes of this process know layersmith checkpoints."""
    AutoConfig.register(LayersmithConfig.model_type, LayersmithConfig, exist_ok=True)
    for name, model in OPENED_BY.items():
        getattr(transformers, name).register(LayersmithConfig, model, exist_ok=True)


def point_here(folder: Path) -> None:
    """Of a saved checkpoint: no code but the lines that point to the installed package."""
    strip_code(folder, _AUTO_MAP)
    (folder / f"{_FILE}.py").write_text(_FILE_TEXT)


def _forget_ties(base: Any) -> None:
    """Of a stock model, the ties of weights that edits took away: what stands in their place shares nothing.

    transformers would put the embedding's matrix into whatever stands for a head.
    """
    there = dict(base.named_parameters(remove_duplicate=False))
    ties, gone = base.all_tied_weights_keys, [name for name in base.all_tied_weights_keys if name not in there]
    if gone:
        base.all_tied_weights_keys = {name: source for name, source in ties.items() if name not in gone}
        named = base._tied_weights_keys.items()
        base._tied_weights_keys = {k: v for k, v in named if not any(re.fullmatch(k, name) for name in gone)}


@cache
def _with_signature(cls: Any, base_class: str) -> type[LayersmithModel]:
    """`cls` with a `forward` that names the stock model's arguments: Trainer drops columns that it does not name."""

    def forward(self: LayersmithModel, *args: Any, **kwargs: Any) -> Any:
        return self.base(*args, **kwargs)

    forward.__signature__ = inspect.signature(stock_class(base_class).forward)  # type: ignore[attr-defined]
    return type("LayersmithModel", (cls,), {"forward": forward, "__module__": __name__})


def _unfilled(opened_by: str, base_class: str) -> LayersmithModel:
    opener: Any = OPENED_BY[opened_by]
    made = _with_signature(opener, base_class)
    return made.__new__(made)


def check_opened_by(auto_class: str, config: LayersmithConfig) -> None:
    """UserError when the Auto class would open the stock model as another kind of model than the saved one."""
    if auto_class == "AutoModel":
        return
    found = getattr(transformers, auto_class)._model_mapping.get(type(config.base_config), ())
    names = {kind.__name__ for kind in (found if isinstance(found, tuple) else (found,)) if isinstance(kind, type)}
    if config.base_class not in names:
        raise UserError(
            f"This checkpoint is a {config.base_class}, which {auto_class} does not open: it has no such head, and a "
            f"new one would be random. Open it with AutoModel, or with the Auto class of a {config.base_class}."
        )


def check_bounded(cls: type[LayersmithModel], folder: str, config: LayersmithConfig) -> None:
    """UserError when config and edits ask for more than the tensors stored in the folder can fill."""
    stored = stored_on_disk(folder)
    stock = skeleton(checked_stock_class(config), config.base_config, stored)
    most = len(list(stock.modules())) + len(stored)
    if len(config.edits) + len(config.shared) > most:
        raise UserError(
            f"The config.json in {folder!r} has {len(config.edits)} edits, more than a model with {most} modules and "
            f"tensors can have. It has been changed or damaged."
        )
    for edit in config.edits:
        # The base of rotary positions is a million in many models, and no size of anything.
        sizes = {name: value for name, value in edit["spec"].items() if "theta" not in name}
        check_counts(folder, sizes, stored)
    check_size(folder, skeleton(cls, config, stored, parts_on="meta"), stored)
