"""Tiny models to export, shared by these tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from torch import nn

from layersmith import catalogue
from layersmith.anatomy import find_sites
from layersmith.anatomy.swap import replacement_of
from layersmith.checkpoint import load, save
from layersmith.linear.int8_dynamic import Int8Dynamic


def llama() -> Any:
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return tf.LlamaForCausalLM(config).eval()


def bert() -> Any:
    torch.manual_seed(0)
    config = tf.BertConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    return tf.BertModel(config).eval()


def edited(model: Any, folder: Any, parts: dict[str, dict[str, Any]]) -> Any:
    """The model with parts at the sites that end so ("ffn", "layers.1.attn"), saved and loaded again."""
    anatomy = find_sites(model)
    chosen = {}
    for ending, spec in parts.items():
        for site in anatomy.sites:
            if site.name.endswith(ending):
                causal = {"causal": site.causal} if "attention" in spec["name"] else {}
                chosen[site.name] = catalogue.build({**spec, "d_model": site.d_model, **causal})
    replacement = replacement_of(model, chosen, anatomy)
    from layersmith.anatomy.edit import apply

    apply(model, replacement)
    save(model, [edit for edit, _ in replacement], folder)
    return load(folder)[0]


def rounded(model: Any, folder: Any, part: type[Any] = Int8Dynamic) -> tuple[Any, list[str]]:
    """The model with every feed-forward matrix as a part with codes, saved and loaded; and the paths of these."""
    from layersmith.anatomy.edit import Edit, apply

    paths = [path for path, m in model.named_modules() if isinstance(m, nn.Linear) and ".mlp." in path]
    made = [part.from_weight(model.get_submodule(path).weight.detach()) for path in paths]
    replacement = [(Edit(path, each.spec(), {}), each) for path, each in zip(paths, made, strict=True)]
    apply(model, replacement)
    save(model, [edit for edit, _ in replacement], folder)
    return load(folder)[0], paths
