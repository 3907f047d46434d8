"""The config of an edited model: that of the stock model, the class it belongs to, and the edits.

What a config may name is limited: classes that transformers itself exports, and parts of layersmith's catalogue.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from layersmith.anatomy.edit import Edit
from layersmith.checkpoint.shared import checked_pairs
from layersmith.errors import UserError


class LayersmithConfig(PreTrainedConfig):
    """A stock config, the class it belongs to, and the edits. Attributes it lacks are read from the stock config.

    base_config  the stock config, or its dict with its "model_type"
    base_class   name of the stock class, e.g. "LlamaForCausalLM"
    edits        `Edit`s as JSON, applied in order; paths are relative to the stock model
    shared       pairs [path, other path]: at the first stands the very module that stands at the other
    """

    model_type = "layersmith"
    sub_configs = {"base_config": AutoConfig}  # noqa: RUF012  (transformers reads it from the class)

    # Further keywords are the attributes every Hugging Face config has; the base class checks and keeps them.
    def __init__(
        self,
        base_config: PreTrainedConfig | dict[str, Any] | None = None,
        base_class: str = "",
        edits: list[dict[str, Any]] | None = None,
        shared: list[list[str]] | None = None,
        **common: Any,
    ):
        base = _stock_config(base_config) if isinstance(base_config, dict) else base_config
        if base is not None:
            for name in ("is_encoder_decoder", "id2label", "label2id", "dtype"):
                common.setdefault(name, getattr(base, name, None))
        super().__init__(**common)  # before base_config is there: its checks are not for the stock config's attributes
        self.base_config: Any = base
        if self._attn_implementation is not None:
            self._attn_implementation = self._attn_implementation  # set again, it reaches base_config, too
        self.base_class = base_class
        self.edits = [Edit.from_json(edit).to_json() for edit in edits or []]
        self.shared = checked_pairs(shared or [])

    def __getattr__(self, name: str) -> Any:
        base = self.__dict__.get("base_config")
        if base is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(base, name)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The config of the text model: that of the stock config."""
        base = self.__dict__.get("base_config")
        return self if base is None else base.get_text_config(decoder=decoder, encoder=encoder)

    def validate(self) -> None:
        """The stock config's checks of itself: those of the base class would read its attributes by other rules."""
        base = self.__dict__.get("base_config")
        if base is None:
            super().validate()  # type: ignore[misc]
        else:
            base.validate()

    def _get_generation_parameters(self) -> dict[str, Any]:
        # transformers refuses to save configs that have any. What is found here are fields of the stock config.
        return {}

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: transformers would copy this file into saved folders, but it lives in an installed package."""


def stock_class(name: str) -> type[PreTrainedModel]:
    """The model class of that name which transformers exports; a UserError for any other name."""
    found: Any = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    is_model = isinstance(found, type) and issubclass(found, PreTrainedModel)
    if not is_model or not found.__module__.startswith("transformers.models."):
        raise UserError(f"{name!r} is not a model class of transformers {transformers.__version__}.")
    return found


def checked_stock_class(config: LayersmithConfig) -> type[PreTrainedModel]:
    """The stock class of a checkpoint; a UserError when its stock config is one of another class."""
    stock = stock_class(config.base_class)
    if not isinstance(config.base_config, stock.config_class or ()):
        raise UserError(
            f"This checkpoint says it is a {config.base_class}, but its config is a "
            f"{type(config.base_config).__name__}. The config.json has been changed or damaged."
        )
    return stock


def _stock_config(data: dict[str, Any]) -> PreTrainedConfig:
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING or kind == LayersmithConfig.model_type:
        raise UserError(
            f"transformers {transformers.__version__} has no model type {kind!r}, which this checkpoint is made from."
        )
    return transformers.CONFIG_MAPPING[kind].from_dict(data)
