"""A convolution whose every connection has one tap and learns where it lies: how long ago the other channel is read.

    y_tj = sum_i w_ji x_i[t - p_ji]                                     with sigma = 0, p rounded to a whole number
    y_tj = sum_i w_ji sum_{n < delays} g(n - p_ji) x_i[t - n]           g(e) = exp(-e^2 / (2 sigma^2)), its sum over n 1

A rounded delay has no gradient, a smeared one has: a layer is trained with sigma > 0, and the one with its
weights and sigma = 0 is the sparse one that is wanted.

Shapes: x (B, T, D) -> y (B, T, D); weight and delay (D, D), delay in steps; rounded, it is held within 0 .. delays - 1.
State: inputs (B, D, delays - 1), the last tokens.

Paper: Hammouamri et al. 2023, "Learning Delays in Spiking Neural Networks using Dilated Convolutions with Learnable
Spacings", arXiv 2306.17670. Confirmed in the released code: the Gaussian and its normalisation, delays that start
anywhere in the range, the rounding; sigma falls from delays / 2 to 0.5 in the first quarter of training.
Differs from the paper: no spiking neurons; sigma is a setting, and does not fall during training; delays are not put
back into the range after a step, and have the learning rate of the weights (there a hundred times that).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.packed import PackedMixer
from layersmith.mixer.shared.short_conv import with_past


class LearnedDelays(PackedMixer):
    """A layer of weights with delays.

    d_model     width of the residual stream
    delays      how many delays are possible, 0 among them
    sigma       width of the smeared tap in steps; 0 = one tap at the nearest step
    """

    name = "learned_delays"

    def __init__(self, d_model: int, delays: int = 16, sigma: float = 0.5):
        super().__init__()
        require_positive(LearnedDelays, d_model=d_model, delays=delays)
        if not 0 <= sigma < float("inf"):
            raise ValueError(f"LearnedDelays: sigma must be a number of steps, 0 or more, not {sigma!r}.")
        self.delays, self.sigma = delays, sigma
        self.weight = nn.Parameter(torch.empty(d_model, d_model).uniform_(-(d_model**-0.5), d_model**-0.5))
        self.delay = nn.Parameter((delays - 1) * torch.rand(d_model, d_model))

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        inputs, last = with_past(x, None if state is None else state["inputs"], self.delays - 1, n_real)
        return F.conv1d(inputs, self.kernel()).mT, {"inputs": last}

    def kernel(self) -> Tensor:
        """(D, D, delays): what each output reads of each input, the oldest step first."""
        steps = torch.arange(self.delays, device=self.delay.device)
        if self.sigma == 0:
            nearest = self.delay.round().clamp(0, self.delays - 1)
            tap = (steps == nearest[..., None]).to(self.weight.dtype)
        else:  # a delay that has left the range still has a gradient, which brings it back
            tap = (-((steps - self.delay[..., None]) / self.sigma).square() / 2).softmax(-1)
        return (self.weight[..., None] * tap).flip(-1)
