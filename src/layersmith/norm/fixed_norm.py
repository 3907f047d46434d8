"""Fixed norm: a norm that divides every token by the same number instead of by the token's own size.

    y = w * (x - mean(x)) / s + b            not centred: y = w * x / s + b

s is the size (standard deviation, or root mean square where it is not centred) that tokens had on average when the
norm was still a norm. Then all of it is linear, and the fold `fixed_norm` moves it into the next linear maps: nothing
is left.

    sinks     tokens whose own size is above a threshold have an s of their own: those on which attention rests, at the
              first place of most models, are tens of times as large as the others. It has to go before the fold
    steps     for so many forward passes in training mode it is the norm that it was, and measures s; from then on s is
              fixed. With 0, T, 2 T, ... at one norm after the other, they are removed one at a time while a model is
              fine-tuned, in the paper's order: those before feed-forwards from the first layer on, those before
              attention, the last one, and the sinks at the end

Shapes: x (..., D) -> y (..., D); w, b (D,); std, sink_std, threshold, step scalars.

Paper: Heimersheim 2024, "You can remove GPT2's LayerNorm by fine-tuning", arXiv 2409.13710. The fixed number, the
order and the special sizes of first and end-of-text tokens were confirmed in public code for it
(submarat/removing-layer-norm, which has s follow the batches until it is fixed, as here); in an early version of that
code the special size stands at channel 0 where position 0 is meant.
Differs from the paper: a norm knows neither places nor token ids, so special tokens are told by their size; queries and
keys do not lose the norm before values do; s is a running mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Norm, require_positive

#: Weight of a new batch in the running mean of sizes.
MOMENTUM = 0.1


class FixedNorm(Norm):
    """y = w * (x - mean(x)) / s + b with one s for all tokens, or one for sinks and one for all others.

    d_model   width of the residual stream
    centre    take the mean off, as LayerNorm does; False: as RMSNorm
    bias      keep b
    sinks     divide tokens larger than `threshold` by `sink_std`
    steps     forward passes in training mode before s is fixed
    eps       added to the square of a token's size while it is still divided by it

    Worked example. At s = 2 a token of that size is normalised, and one of twice the size is twice as large:

    >>> import torch
    >>> part = FixedNorm(4)
    >>> _ = part.std.fill_(2.0)
    >>> x = torch.tensor([1.0, 1.0, 5.0, 5.0])
    >>> part(torch.stack([x, 2 * x])).tolist()
    [[-1.0, -1.0, 1.0, 1.0], [-2.0, -2.0, 2.0, 2.0]]
    """

    name = "fixed_norm"
    std: Tensor
    sink_std: Tensor
    threshold: Tensor
    step: Tensor

    def __init__(
        self,
        d_model: int,
        centre: bool = True,
        bias: bool = True,
        sinks: bool = False,
        steps: int = 0,
        eps: float = 1e-5,
    ):
        super().__init__()
        require_positive(FixedNorm, d_model=d_model)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"FixedNorm: steps must be an integer of at least 0, not {steps!r}.")
        if not eps >= 0:
            raise ValueError(f"FixedNorm: eps must be at least 0, not {eps!r}.")
        self.centre, self.sinks, self.steps, self.eps = centre, sinks, steps, eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.register_buffer("std", torch.ones(()))
        if sinks:
            self.register_buffer("sink_std", torch.ones(()))
            self.register_buffer("threshold", torch.full((), 1e30))
        if steps:
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True) if self.centre else x
        y = self.weight * (centred / self._size(centred)) + (0 if self.bias is None else self.bias)
        return y.to(x.dtype)

    def _size(self, centred: Tensor) -> Tensor:
        """What the tokens are divided by: a scalar, or (..., 1)."""
        if not (self.sinks or self.steps):
            return self.std
        wide = centred.to(torch.promote_types(centred.dtype, torch.float32))  # a sink's square is beyond float16
        square = wide.square().mean(-1, keepdim=True)
        none = torch.zeros_like(square, dtype=torch.bool)
        large = square > self.threshold.to(wide.dtype).square() if self.sinks else none
        if self.steps and self.training:
            self._follow(square.detach().sqrt(), large)
        size = torch.where(large, self.sink_std, self.std) if self.sinks else self.std
        if not self.steps:
            return size
        # In training the step has been counted already: the pass number `steps` is the last one of the norm.
        fixed = self.step > self.steps if self.training else self.step >= self.steps
        return torch.where(fixed, size, (square + self.eps).sqrt())

    @torch.no_grad()
    def _follow(self, own: Tensor, large: Tensor) -> None:
        """One more pass; while the sizes are still measured, their running means move."""
        self.step.add_(1)
        weight = MOMENTUM * (self.step <= self.steps)
        for kept, which in ((self.std, ~large), (self.sink_std, large)) if self.sinks else ((self.std, ~large),):
            mean = (own * which).sum() / which.sum().clamp_min(1)
            kept.add_(weight * which.any() * (mean - kept))

    @property
    def finished(self) -> bool:
        """Whether s is fixed, and the same for all tokens: what the fold needs."""
        return not self.sinks and (not self.steps or int(self.step) >= self.steps)

    @torch.no_grad()
    def as_affine(self) -> tuple[Tensor, Tensor]:
        """(D,) factor and (D,) constant in float64: y = factor * (x, less its mean if `centre`) + constant."""
        factor = self.weight.double() / self.std.double()
        return factor, torch.zeros_like(factor) if self.bias is None else self.bias.double()
