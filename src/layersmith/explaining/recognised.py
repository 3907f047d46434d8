"""A site's sublayer as one of our operators: the module itself where it is one, or a recognised copy."""

from __future__ import annotations

from typing import Any

from torch import nn

from layersmith.anatomy import Site
from layersmith.anatomy.recognise import as_attention, as_ffn
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention


def attention_at(model: nn.Module, site: Site) -> SoftmaxAttention | None:
    """The site as our softmax attention, None where it is none."""
    own: Any = model.get_submodule(site.modules[0])
    if type(own) is SoftmaxAttention:
        return own
    found = as_attention(model, site)
    return None if found is None else found.operator


def ffn_at(model: nn.Module, site: Site) -> MLP | GLU | None:
    """The site as our `MLP` or `GLU`, None where it is neither."""
    own: Any = model.get_submodule(site.modules[0])
    if type(own) in (MLP, GLU):
        return own
    found = as_ffn(model, site)
    return None if found is None else found.operator
