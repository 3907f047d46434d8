"""Pre-LN or Post-LN: whether a norm stands before each sublayer or after each sum decides how gradients meet depth.

    pre    x <- x + f(norm(x)),  one more norm before the output map         last layer's gradient <~ d sqrt(ln d / L)
    post   x <- norm(x + f(x))                                               last layer's gradient <~ d sqrt(ln d)

with Xavier weights; both are bounds from above. The gradient of the last layers does not shrink with depth L in
Post-LN, so that a first step of full size is too large there: it needs a warm-up of the learning rate, Pre-LN does not.

Shapes: W (d_out, d_in) with variance 2 / (d_in + d_out), biases 0.

Paper: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", arXiv 2002.04745. Confirmed in
its abstract, its Table 1 and Theorem 1, these as quoted by readers: the two places, the last norm of Pre-LN alone, the
two bounds, of the last layer's output matrix in its feed-forward. How it goes with depth is measured here.
Differs from the paper: Xavier weights in all maps of mixers and feed-forwards; its theorem sets queries and keys to 0.
"""

from __future__ import annotations

from torch import nn

from layersmith.contract import Scheme
from layersmith.scheme.shared.edits import attention_maps, ffn_maps, reference, set_norm_position, xavier

PLACES = ("pre", "post")


class NormPlace(Scheme):
    """Norms before the sublayers or after the sums, and Xavier weights.

    place   "pre" or "post"
    """

    name = "norm_place"
    #: Of Post-LN: the gradient does not fall with depth; in Pre-LN, the plain model, it does.
    expected = {"last_ffn_slope": (-0.15, 0.5)}  # noqa: RUF012

    def __init__(self, place: str = "post"):
        if place not in PLACES:
            raise ValueError(f"NormPlace: place must be one of {', '.join(PLACES)}, not {place!r}.")
        self.place = place

    def apply(self, model: nn.Module) -> None:
        model = reference(model, "NormPlace")
        set_norm_position(model, self.place)
        for index in range(model.config.num_hidden_layers):
            for linear in (*attention_maps(model, index).values(), *ffn_maps(model, index).values()):
                xavier(linear)
