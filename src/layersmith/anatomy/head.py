"""The map from hidden states to logits as one more site, for what can change it without changing what it says.

No operator of the catalogue stands in for a head; but its matrix is the largest of a small language model, and a number
format suits it as it suits any other. Where it is tied to the embedding, the embedding stays what it is.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.site import Anatomy, Site


def with_head(model: nn.Module, anatomy: Anatomy) -> Anatomy:
    """The anatomy with a last site "head" of kind "head"; as it was where no linear head is called after one stack."""
    named = getattr(model, "get_output_embeddings", lambda: None)
    try:
        head = named()
    except (AttributeError, NotImplementedError):  # what transformers raises for models that have none
        head = None
    path = next((path for path, module in model.named_modules() if module is head), "")
    if not path or not isinstance(head, nn.Linear) or len(anatomy.blocks) != 1 or not _is_called(model, head):
        return anatomy
    (blocks,) = anatomy.blocks.values()
    site = Site("head", "head", (path,), layer=len(blocks), stack="", d_model=head.in_features)
    return replace(anatomy, sites=(*anatomy.sites, site))


def _is_called(model: nn.Module, head: nn.Module) -> bool:
    """Whether the model calls its head, once: MobileBERT reads the weight and multiplies by itself."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = head.register_forward_pre_hook(count)
    try:
        with evaluating(model):
            model(**example_inputs(model))
    finally:
        handle.remove()
    return calls == 1


def is_tied(model: nn.Module, site: Site) -> bool:
    """Whether another module holds the weight of what stands at this head too; a packed weight is nobody else's."""
    head = model.get_submodule(site.modules[0])
    weight = getattr(head, "weight", None)
    others = (p for m in model.modules() if m is not head for p in m.parameters(recurse=False))
    return any(parameter is weight for parameter in others)
