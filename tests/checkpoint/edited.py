"""Edited tiny models, shared by the tests of saving, loading and verifying."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.edit import Edit, apply
from tests.anatomy.families import BY_NAME


def edited(family: str = "llama", **parts: dict[str, Any]) -> tuple[Any, Any, list[Edit]]:
    """(original, edited copy, edits): `parts` maps a role ("ffn", "attn", "block") or "layers_1_ffn" to a spec.

    A role applies to every site that has it and may be replaced; causality and width are filled in.
    """
    torch.manual_seed(0)
    original = BY_NAME[family].model()
    anatomy = find_sites(original)
    replacement = []
    for key, spec in parts.items():
        pattern = key.replace("_", ".") if "_" in key else key
        sites = [s for s in anatomy.sites if not s.locked and (pattern == s.role or s.name.endswith(pattern))]
        assert sites, key
        for site in sites:
            causal = {"causal": site.causal} if spec["name"] == "softmax_attention" else {}
            part = catalogue.build({**spec, "d_model": site.d_model, **causal})
            replacement += replacement_for(original, site, part)
    changed = copy.deepcopy(original)
    apply(changed, replacement)
    return original, changed.eval(), [edit for edit, _ in replacement]


def output(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Logits, or hidden states of a model without a head."""
    with torch.no_grad():
        return model(**inputs)[0]


def generated(model: Any, inputs: dict[str, Any], **options: Any) -> Tensor:
    return model.generate(
        input_ids=inputs["input_ids"], max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0, **options
    )
