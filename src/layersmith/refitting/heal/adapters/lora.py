"""LoRA: a correction of low rank for every linear map inside the blocks, merged into it.

    W = W_0 + B A        A (r, d_in) drawn at random, B (d_out, r) zero at first

The model that is left has the form, the bytes and the speed of the one that was healed. What lies outside of the
blocks (embeddings, the head), vectors, and experts in stacks of matrices stay as they are; so does a matrix that
another module shares.

Paper: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. PEFT's `LoraConfig`
with "all-linear" trains the same numbers unmerged; the tests compare gradients with it.
Differs: no dropout, and no factor alpha / r, for which the learning rate stands; matrices in a number format are
corrected too, through their rounding.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager

from torch import nn

from layersmith.anatomy import Anatomy
from layersmith.errors import UserError
from layersmith.refitting.heal.adapters.adapter import Adapter
from layersmith.refitting.heal.adapters.corrected import can_be_corrected, corrected


class LoRA(Adapter):
    name = "lora"
    summary = "A correction of low rank for every linear map inside the blocks, merged into it."
    rate = 30.0

    def __init__(self, rank: int = 8):
        self.rank = rank

    def check(self, model: nn.Module, anatomy: Anatomy) -> None:
        linear_maps(model, anatomy)

    def training(self, model: nn.Module, anatomy: Anatomy, seed: int) -> AbstractContextManager[None]:
        return corrected(model, linear_maps(model, anatomy), self.rank, seed)


def linear_maps(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Paths of the linear maps inside the blocks whose weights are nobody else's; UserError where there is none."""
    blocks = {path for stack in anatomy.blocks.values() for path in stack}
    held = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    found = [
        path
        for path, module in model.named_modules()
        if can_be_corrected(module)
        and any(path == block or path.startswith(f"{block}.") for block in blocks)
        and all(held[id(p)] == 1 for p in module.parameters())
    ]
    if not found:
        raise UserError(
            f"No linear map inside the blocks of {type(model).__name__} can take a correction of low rank. Heal its "
            f"weights themselves: leave --heal-adapter out."
        )
    return found
