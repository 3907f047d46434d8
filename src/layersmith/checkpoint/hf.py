"""The Hugging Face classes of an edited model: a stock model with some modules replaced, saved and loaded as one.

    config.json            {"model_type": "layersmith", "base_class": "LlamaForCausalLM", "base_config": {...},
                            "edits": [{"path": "model.layers.3.mlp", "spec": {"name": "glu", ...}, "call": {}}, ...]}
    model.safetensors      all weights, those of the replaced modules included
    modeling_layersmith.py two lines that point here, for processes that never imported layersmith

Loading builds the stock class from its config, puts freshly built parts at the edited paths, and reads the weights.
What a config may name is limited: classes that transformers itself exports, and parts of layersmith's catalogue.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel

from layersmith.anatomy.adapters import open_up
from layersmith.anatomy.calls import AttentionCall
from layersmith.anatomy.edit import Edit, apply, build_module
from layersmith.errors import UserError

#: The Auto classes that return a `LayersmithModel`. Whichever is asked, the model is the one that was saved.
AUTO_CLASSES = (
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForImageClassification",
    "AutoModelForSequenceClassification",
)
_FILE = "modeling_layersmith"
_AUTO_MAP = {
    "AutoConfig": f"{_FILE}.LayersmithConfig",
    **{name: f"{_FILE}.LayersmithModel" for name in AUTO_CLASSES},
}
_FILE_TEXT = '''"""This model has parts that transformers does not know. They come with layersmith:

install it from its repository (`pip install .` there).
"""

from layersmith.checkpoint.hf import LayersmithConfig, LayersmithModel

__all__ = ["LayersmithConfig", "LayersmithModel"]
'''


class LayersmithConfig(PreTrainedConfig):
    """A stock config, the class it belongs to, and the edits. Attributes it lacks are read from the stock config.

    base_config  the stock config, or its dict with its "model_type"
    base_class   name of the stock class, e.g. "LlamaForCausalLM"
    edits        `Edit`s as JSON, applied in order; paths are relative to the stock model
    """

    model_type = "layersmith"
    sub_configs = {"base_config": AutoConfig}  # noqa: RUF012  (transformers reads it from the class)

    # Further keywords are the attributes every Hugging Face config has; the base class checks and keeps them.
    def __init__(
        self,
        base_config: PreTrainedConfig | dict[str, Any] | None = None,
        base_class: str = "",
        edits: list[dict[str, Any]] | None = None,
        **common: Any,
    ):
        base = _stock_config(base_config) if isinstance(base_config, dict) else base_config
        if base is not None:
            for name in ("is_encoder_decoder", "id2label", "label2id", "dtype"):
                common.setdefault(name, getattr(base, name, None))
        super().__init__(**common)  # before base_config is there: its checks are not for the stock config's attributes
        self.base_config = base
        if self._attn_implementation is not None:
            self._attn_implementation = self._attn_implementation  # set again, it reaches base_config, too
        self.base_class = base_class
        self.edits = [Edit.from_json(edit).to_json() for edit in edits or []]

    def __getattr__(self, name: str) -> Any:
        base = self.__dict__.get("base_config")
        if base is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(base, name)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The config of the text model: that of the stock config."""
        base = self.__dict__.get("base_config")
        return self if base is None else base.get_text_config(decoder=decoder, encoder=encoder)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: transformers would copy this file into saved folders, but it lives in an installed package."""


class LayersmithModel(PreTrainedModel, GenerationMixin):
    """A stock model with edits, under `base`. Calling and generating are the stock model's own.

    trust_remote_code  allow parts that are not in the catalogue ("package.module:Class"): importing them runs them
    """

    config_class = LayersmithConfig
    base_model_prefix = "base"
    supports_gradient_checkpointing = True
    # What is really supported is for the stock class to say, which gets the same request.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: LayersmithConfig, trust_remote_code: bool = False):
        super().__init__(config)
        stock = stock_class(config.base_class)
        if not isinstance(config.base_config, stock.config_class or ()):
            raise UserError(
                f"This checkpoint says it is a {config.base_class}, but its config is a "
                f"{type(config.base_config).__name__}. The config.json has been changed or damaged."
            )
        self.base: Any = stock(config.base_config)
        self.main_input_name = self.base.main_input_name
        open_up(self.base, keep_names=False)  # the weights are stored under the paths that edits use
        # transformers builds models without memory (on "meta") and fills them; parts may compute while being built.
        edits = [Edit.from_json(edit) for edit in config.edits]
        with torch.device("cpu"):
            replacement = [(edit, build_module(edit, trust_remote_code)) for edit in edits]
        apply(self.base, replacement)
        self.post_init()

    # The signature is the stock model's, whichever that is: arguments go through as they are, here and in generate.
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The stock model's `forward`."""
        return self.base(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The stock model's `generate`."""
        return self.base.generate(*args, **kwargs)

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
        """As in transformers, but strict: UserError when a weight is missing or belongs nowhere."""
        with_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        wrong = sorted({*info["missing_keys"], *info["unexpected_keys"]})
        if wrong:
            raise UserError(
                f"The weights in {str(name)!r} do not fit its config.json: {len(wrong)} tensors are missing or belong "
                f"nowhere, {wrong[0]!r} for one. One of the files has been changed or damaged."
            )
        model._renew_tables()
        return (model, info) if with_info else model

    def _renew_tables(self) -> None:
        """Compute again what parts keep but do not save (non-persistent buffers), which loading leaves undefined."""
        for edit in map(Edit.from_json, self.config.edits):
            module: Any = self.base.get_submodule(edit.path)
            part: Any = module.operator if isinstance(module, AttentionCall) else module
            tables = {name: t for name, t in part.named_buffers() if name not in stored_tensors(part)}
            if tables and part.spec() == edit.spec:
                fresh = dict(type(part)(**{k: v for k, v in edit.spec.items() if k != "name"}).named_buffers())
                for name, table in tables.items():
                    table.copy_(fresh[name])

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """As in transformers; the folder also loads where layersmith is installed but was never imported."""
        self.config.auto_map = dict(_AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)
        (Path(save_directory) / f"{_FILE}.py").write_text(_FILE_TEXT)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing: see the config's."""


def stock_class(name: str) -> type[PreTrainedModel]:
    """The model class of that name which transformers exports; a UserError for any other name."""
    found: Any = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    is_model = isinstance(found, type) and issubclass(found, PreTrainedModel)
    if not is_model or not found.__module__.startswith("transformers.models."):
        raise UserError(f"{name!r} is not a model class of transformers {transformers.__version__}.")
    return found


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


def register() -> None:
    """Make `AutoConfig` and the `AutoModel...` classes of this process know layersmith checkpoints."""
    AutoConfig.register(LayersmithConfig.model_type, LayersmithConfig, exist_ok=True)
    for name in AUTO_CLASSES:
        getattr(transformers, name).register(LayersmithConfig, LayersmithModel, exist_ok=True)


def _stock_config(data: dict[str, Any]) -> PreTrainedConfig:
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING or kind == LayersmithConfig.model_type:
        raise UserError(
            f"transformers {transformers.__version__} has no model type {kind!r}, which this checkpoint is made from."
        )
    return transformers.CONFIG_MAPPING[kind].from_dict(data)
