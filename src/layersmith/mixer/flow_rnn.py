"""Flow-equivariant recurrent network: one hidden map for each velocity, so that it moves along with what it reads.

    h_t(v, g) = tanh( [W * h_{t-1}](v, g - v) + [U * x_t](g) + b )          v in V, g a place on a ring of G
    y_t(g)    = [O * max_v h_t(v, .)](g)

Every token is a signal on a ring of G places, `channels` numbers at each, and * is a cyclic convolution over places.
The map of velocity v is moved on by v places at every step. If x_t is moved by u t places, then h_t(v) becomes h_t(v -
u) moved by u t, and y_t is moved by u t. That is exact where V holds all velocities of the ring; with |v| <=
velocities it holds for what does not leave V.

Shapes: x (B, T, D) as (B, T, channels, G) -> h (B, T, V, d_hidden, G) -> y (B, T, D).
State: h (B, V, d_hidden, G) in at least float32. Steps are taken one after the other (`shared/stepwise.py`).

Paper: Keller 2025, "Flow Equivariant Recurrent Neural Networks". Confirmed in the authors' code: cyclic convolutions,
W of places and channels and not of velocities, a start from zeros, and the maximum over velocities before the output
map.
Differs from the paper: signals on a ring in place of pictures; tanh in place of ReLU; biases; one output convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.stepwise import Step, SteppedMixer


class FlowRNN(SteppedMixer):
    """A convolutional recurrent network with a map for each velocity.

    d_model      width of the residual stream: channels times the places of the ring
    d_hidden     channels of the hidden maps
    channels     of the inputs and outputs
    velocities   the largest velocity, in places a token: V is -velocities .. velocities; None: all of the ring; 0: a
                 plain convolutional recurrent network
    kernel       places that a convolution reads, an odd number
    """

    name = "flow_rnn"

    moved: Tensor

    def __init__(self, d_model: int, d_hidden: int, channels: int = 1, velocities: int | None = 1, kernel: int = 3):
        super().__init__()
        require_positive(FlowRNN, d_model=d_model, d_hidden=d_hidden, channels=channels, kernel=kernel)
        if d_model % channels:
            raise ValueError(f"FlowRNN: channels={channels} must divide d_model={d_model}: the rest is places.")
        self.channels, places = channels, d_model // channels
        if kernel % 2 == 0 or kernel > places:
            raise ValueError(f"FlowRNN: kernel={kernel} must be an odd number of at most {places} places.")
        if velocities is not None and not 0 <= 2 * velocities < places:
            raise ValueError(
                f"FlowRNN: velocities={velocities} must be from 0 to {(places - 1) // 2}: on a ring of {places} places "
                f"there are no others. None takes them all."
            )
        all_of_them = range(places) if velocities is None else range(-velocities, velocities + 1)
        # Place g of the map of velocity v is what was at g - v.
        source = torch.arange(places) - torch.tensor(list(all_of_them))[:, None]
        self.register_buffer("moved", source.remainder(places)[:, None])  # (V, 1, G)
        self.inward = nn.Conv1d(channels, d_hidden, kernel)
        self.recur = nn.Conv1d(d_hidden, d_hidden, kernel, bias=False)
        self.outward = nn.Conv1d(d_hidden, channels, kernel)

    def read(self, x: Tensor) -> Tensor:
        return _round(self.inward, x.unflatten(-1, (self.channels, -1)))

    def start(self, u: Tensor) -> State:
        return {"h": u.new_zeros(u.shape[0], self.moved.shape[0], *u.shape[2:])}

    def stepper(self, u: Tensor) -> Step:
        def step(now: Tensor, state: State) -> State:
            recurrent = _round(self.recur, state["h"])
            flown = recurrent.gather(-1, self.moved.expand_as(recurrent))
            return {"h": (flown + now[:, None]).tanh()}

        return step

    def write(self, h: Tensor) -> Tensor:
        return _round(self.outward, h.amax(2)).flatten(-2)


def _round(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """The convolution of x (..., C, G) around the ring, in the dtype of x."""
    reach = conv.kernel_size[0] // 2
    maps = F.pad(x.flatten(0, -3), (reach, reach), mode="circular") if reach else x.flatten(0, -3)
    bias = None if conv.bias is None else conv.bias.to(x.dtype)
    return F.conv1d(maps, conv.weight.to(x.dtype), bias).unflatten(0, x.shape[:-2])
