"""Opens the few sublayers that structure alone cannot reach, without changing what the model computes or saves.

`open_up` is the whole interface. It knows three cases:

- PyTorch's own `nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer` hold their activation as a plain
  function and, in inference, skip their children altogether for one fused kernel that reads the children's weights.
  The function becomes a module that calls it, and the layers' own switches for the fused kernel, and for the nested
  tensors it works on, are turned off.
- ALBERT's attention module also adds the residual and normalises, with the attention itself written in between. It
  becomes a `BertAttention` (attention, then projection, residual and norm, as modules of their own) that holds the
  same weight modules; `state_dict` and `load_state_dict` keep ALBERT's names.
- BLOOM's attention module is handed the residual and adds it itself. It is put inside a module that does the adding,
  so that what it returns is what attention computed; names in the state dict stay, as for ALBERT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy.stand_in import install_recorders, take_over
from layersmith.errors import UserError

#: name inside BertAttention -> name inside AlbertAttention
_ALBERT_NAMES = {
    "self.query.": "query.",
    "self.key.": "key.",
    "self.value.": "value.",
    "output.dense.": "dense.",
    "output.LayerNorm.": "LayerNorm.",
}


def open_up(model: nn.Module, keep_names: bool = True) -> tuple[str, ...]:
    """Open what is closed in `model`, in place; returns one sentence for each kind of change (none: nothing to do).

    Outputs, `state_dict` and parameters stay the same; only PyTorch's fused kernel rounds differently from its layers
    (by about 1e-6) and writes zeros at padding, where its layers write something. Doing it twice changes nothing
    more. Raises UserError for layers with batch_first=False.

    keep_names  False: ALBERT's state dict uses the paths of the opened modules, as checkpoints of edited models do
    """
    notes = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            if not isinstance(module.activation, nn.Module):
                _open_torch_layer(path, module)
                notes["torch"] = (
                    "The activation functions of torch's transformer layers were made modules of their own, and the "
                    "layers' fused inference kernel was switched off: it bypasses the sublayers."
                )
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        elif type(module).__name__ == "AlbertAttention":
            install_recorders(model)  # transformers looks for ALBERT's own class
            opened = _opened_albert(module, keep_names)
            take_over(opened, module)
            _put(model, path, opened)
            notes["albert"] = (
                "ALBERT's attention modules were split into attention, projection and norm (the same weights under "
                "the same names in the state dict)."
            )
        elif type(module).__name__ == "BloomAttention" and not path.endswith(".attention"):
            _put(model, path, AddsResidual(module, keep_names))
            notes["bloom"] = (
                "The addition of the residual was taken out of BLOOM's attention modules (the same weights under the "
                "same names in the state dict)."
            )
    return tuple(notes.values())


class Function(nn.Module):
    """A plain function as a module, so that it can be seen, hooked and replaced."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


class AddsResidual(nn.Module):
    """BLOOM's attention, which adds the residual it is given, as attention and an addition."""

    def __init__(self, attention: nn.Module, keep_names: bool):
        super().__init__()
        self.attention = attention
        self.train(attention.training)
        if keep_names:
            self.register_state_dict_post_hook(_save_bloom_names)
            self.register_load_state_dict_pre_hook(_load_bloom_names)

    # What BLOOM's block passes besides these two differs from version to version and goes through as it is.
    def forward(self, hidden_states: Tensor, residual: Tensor, **rest: Any) -> tuple[Any, ...]:
        y, *others = self.attention(hidden_states, 0.0, **rest)
        return (residual + y, *others)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _open_torch_layer(path: str, layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> None:
    attention = layer.self_attn
    if isinstance(attention, nn.MultiheadAttention) and not attention.batch_first:
        raise UserError(
            f"{path or 'The layer'} takes its tokens in dimension 0 (batch_first=False); layersmith's operators take "
            f"(batch, tokens, width). Build the layers with batch_first=True; the weights are the same."
        )
    layer.activation = Function(layer.activation)
    if isinstance(layer, nn.TransformerEncoderLayer):
        # The layer asks this number which activation the fused kernel should use; 0 stands for "not supported there".
        layer.activation_relu_or_gelu = 0


def _opened_albert(attention: Any, keep_names: bool) -> nn.Module:
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertAttention

    config = attention.config
    with torch.device("meta"):  # the modules made here are replaced by ALBERT's below
        opened = BertAttention(
            BertConfig(hidden_size=config.hidden_size, num_attention_heads=config.num_attention_heads)
        )
    inner, output = opened.self, opened.output
    inner.config = config
    inner.query, inner.key, inner.value = attention.query, attention.key, attention.value
    inner.dropout = attention.attention_dropout
    output.dense, output.LayerNorm = attention.dense, attention.LayerNorm
    output.dropout = attention.output_dropout
    opened.train(attention.training)
    if keep_names:
        opened.register_state_dict_post_hook(_save_albert_names)
        opened.register_load_state_dict_pre_hook(_load_albert_names)
    return opened


def _save_albert_names(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    _rename(state, prefix, _ALBERT_NAMES)


def _load_albert_names(module: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    _rename(state, prefix, {albert: bert for bert, albert in _ALBERT_NAMES.items()})


def _save_bloom_names(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    _rename(state, prefix, {"attention.": ""})


def _load_bloom_names(module: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    if not any(key.startswith(f"{prefix}attention.") for key in state):
        _rename(state, prefix, {"": "attention."})


def _rename(state: dict[str, Any], prefix: str, names: dict[str, str]) -> None:
    for old, new in names.items():
        for key in [k for k in state if k.startswith(prefix + old)]:
            state[prefix + new + key[len(prefix + old) :]] = state.pop(key)
