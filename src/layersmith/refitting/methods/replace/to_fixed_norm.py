"""Replace a norm by a division by the size that tokens have on average at its place.

The mildest setting gives sinks, which are tens of times as large as other tokens at the first place of most models, a
size of their own. With one size for all, the fold `fixed_norm` leaves no norm at all.

Paper: arXiv 2409.13710, "You can remove GPT2's LayerNorm by fine-tuning".
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.norm.fixed_norm import FixedNorm
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.norm_start import eps_of, fit_gain_and_bias
from layersmith.refitting.view import SublayerView

#: How many times as large as the median a token is that counts as a sink.
SINK = 4.0


class ToFixedNorm(Method):
    name = "fixed_norm"
    kinds = ("norm",)
    papers = ("2409.13710",)
    missing = "the removal of one norm after the other while a model is fine-tuned, for which the part has `steps`"
    builds = ("fixed_norm",)
    default = False
    saves = ()
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Where a model without norms is easier to take apart, once it has been trained to do without them; by itself "
        "it costs quality and saves little time."
    )
    differs = "All norms are replaced at once and healing comes after, so expect more damage than the paper reports."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"sinks": True}, {"sinks": False}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        x, y, eps = view.inputs, view.targets, eps_of(view)
        fits = {(centre, bias): _fit(x, y, eps, centre, bias) for centre in (True, False) for bias in (False, True)}
        error = {form: fit[0] for form, fit in fits.items()}
        # The plainest form that is as good as any: norms that were trained have no use for a bias they do not have.
        centre, bias = min(error, key=lambda form: (error[form] > 2 * min(error.values()) + 1e-10, form[1]))
        _, sizes, gain, offset = fits[centre, bias]
        part = FixedNorm(view.site.d_model, centre=centre, bias=bias, eps=eps, **settings).to(view.device)
        threshold = SINK * sizes.median()
        large = sizes > threshold
        part.std.copy_(sizes[~large].mean())
        if part.sinks:
            part.threshold.copy_(threshold)
            part.sink_std.copy_(sizes[large].mean() if bool(large.any()) else threshold)
        part.weight.copy_(gain)
        if part.bias is not None:
            part.bias.copy_(offset)
        return view.as_replacement(part)


def _fit(x: Tensor, y: Tensor, eps: float, centre: bool, bias: bool) -> tuple[float, Tensor, Tensor, Tensor]:
    """Squared error as a share, the sizes of tokens (tokens,), and gain and bias, of the norm nearest to y."""
    centred = x.double() - (x.double().mean(-1, keepdim=True) if centre else 0)
    sizes = (centred.square().mean(-1) + eps).sqrt()
    normed = centred / sizes[:, None]
    gain, offset = fit_gain_and_bias(normed, y.double(), bias=bias)
    error = (gain * normed + offset - y).square().sum() / y.double().square().sum().clamp_min(1e-30)
    return float(error), sizes, gain, offset
