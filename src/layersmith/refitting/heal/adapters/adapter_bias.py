"""AdapterBias: a vector for each feed-forward, added to its output times a number that depends on the token.

    y = W h + b + (l . h + c) v        h: what enters the last map of the feed-forward; v = 0 at first

The number is linear in h, so that all of it is a correction of rank one with a shift: W + v l^T and b + c v. It is
merged into the last map, and costs nothing afterwards.

Paper: Fu et al. 2022, "AdapterBias: Parameter-efficient Token-dependent Representation Shift for Adapters in NLP
Tasks", arXiv 2205.00305. Confirmed in the released code: the number reads what enters the last map (hence
d_hidden + 1 + D numbers a layer), v starts as zeros. That it can be merged is not said there.
Differs: the norm behind the feed-forward is not trained; c is left out where the map has no bias that could hold c v.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn

from layersmith.anatomy import Anatomy
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.running import evaluating
from layersmith.anatomy.sites import find_sites
from layersmith.errors import UserError
from layersmith.refitting.heal.adapters.adapter import Adapter
from layersmith.refitting.heal.adapters.corrected import can_be_corrected, corrected


class AdapterBias(Adapter):
    name = "adapter_bias"
    summary = "A vector for each feed-forward, times a number that depends on the token, merged into its last map."
    papers = ("adapterbias-parameter-efficient-token-dependent",)
    missing = "the training of the norms behind the feed-forwards"
    rate = 30.0

    def check(self, model: nn.Module, anatomy: Anatomy) -> None:
        last_maps(model)

    def training(self, model: nn.Module, anatomy: Anatomy, seed: int) -> AbstractContextManager[None]:
        return corrected(model, last_maps(model), 1, seed, shifts=True)


def last_maps(model: nn.Module) -> list[str]:
    """Path of the map that each feed-forward ends in, as a probe run calls them; UserError where there is none."""
    sites = find_sites(model).of_kind("ffn")
    inside = {
        path: site.name
        for site in sites
        for path, module in model.named_modules()
        if can_be_corrected(module) and any(path == top or path.startswith(f"{top}.") for top in site.modules)
    }
    called: dict[str, tuple[str, int]] = {}

    def watch(path: str, output: Tensor) -> None:
        called[inside[path]] = (path, output.shape[-1])

    hooks = [
        model.get_submodule(path).register_forward_hook(lambda module, args, output, path=path: watch(path, output))
        for path in inside
    ]
    try:
        with evaluating(model):
            model(**example_inputs(model))
    finally:
        for hook in hooks:
            hook.remove()
    widths = {site.name: site.d_model for site in sites}
    found = [path for site, (path, width) in called.items() if width == widths[site]]
    if not found:
        raise UserError(
            f"No feed-forward of {type(model).__name__} ends in a linear map that a vector could be added behind. Heal "
            f"it by lora, or heal its weights themselves: leave --heal-adapter out."
        )
    return found
