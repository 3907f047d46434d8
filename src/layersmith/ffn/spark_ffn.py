"""Spark-FFN: a few input channels predict which hidden channels a token needs; only those are computed.

    p = K_1 x[:r],   theta = mean(p) + std(p) Phi^-1(1 - k / d_hidden)          (statistical top-k over the channels)
    a = max(p - theta, 0)  (hard: p)   where p > theta;  those channels are the active ones
    y = sum over active i of  act(a_i) (K_2 x[r:])_i V[i]

Shapes: x (..., D) -> p (..., d_hidden) -> y (..., D); K_1 (d_hidden, r), K_2 (d_hidden, D - r), V (d_hidden, D): as
many parameters as an MLP of that width. With r = None, K_1 and K_2 both read all of x: a GLU with statistical
top-k on its gate, which is the feed-forward of Gemma 3n. Hard with k = d_hidden is then the dense GLU.

About k channels are active (exactly how many depends on the token). Where no gradients are asked for, up to
`gather_tokens` tokens read only the active rows of K_2 and V; otherwise dense products on a masked hidden layer are
used, because copying separate rows for every token costs more than the zeros.

Paper: You et al. 2025, "Spark Transformer: Reactivating Sparsity in FFN and Attention", arXiv 2506.06644. Confirmed in
public summaries of it: the split of the input, GELU of the thresholded predictor times K_2 x[r:]; in transformers'
Gemma 3n: the statistical top-k and the form with r = None.
Differs from the paper: the hard form is ours, as a start from trained gates, which are not shifted by theta. In `cost`,
`flops` is what k active channels spend, `active_params` the most that any token can read (by Cantelli's inequality).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library, nn
from torch.utils.flop_counter import register_flop_formula

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.ffn.glu import GLU
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.statistical_topk import most_kept, quantile, threshold
from layersmith.kernels import chosen as kernel


@library.custom_op("layersmith::active_rows", mutates_args=())
def _active_rows(x: Tensor, gate: Tensor, keep: Tensor, value: Tensor, out: Tensor, k: int) -> Tensor:
    y = x.new_zeros(x.shape[0], out.shape[1])
    # The kernel reads the rows where they lie; it takes tables of one width, which K_2 and V are when nothing is split.
    in_place = value.shape == out.shape and kernel.serves(x, gate, value, out)
    for token in range(x.shape[0]):
        chosen = keep[token].nonzero()[:, 0]
        if in_place:
            strength = gate[token].index_select(0, chosen)
            y[token] = kernel.chosen_rows(x[token, None], strength[None], chosen[None], value, out)[0]
            continue
        # index_select is several times faster than value[chosen] where few rows are chosen.
        hidden = gate[token].index_select(0, chosen) * torch.mv(value.index_select(0, chosen), x[token])
        y[token] = hidden @ out.index_select(0, chosen)
    return y


@_active_rows.register_fake
def _(x: Tensor, gate: Tensor, keep: Tensor, value: Tensor, out: Tensor, k: int) -> Tensor:
    return x.new_empty(x.shape[0], out.shape[1])


@register_flop_formula(torch.ops.layersmith.active_rows)
def _active_flops(
    x: tuple[int, ...], gate: object, keep: object, value: object, out: tuple[int, ...], k: int, **kwargs: Any
) -> int:
    return 2 * x[0] * k * (x[1] + out[1])


class SparkFFN(FeedForward):
    """Feed-forward that computes the hidden channels which a cheap predictor finds large.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    k                   active channels per token, on average; below d_hidden when soft
    r                   input channels the predictor reads, the rest being left to K_2; None: both read all of them
    act                 activation of the predictor
    soft                subtract the threshold from what exceeds it, instead of keeping it as it is
    gather_tokens       up to this many tokens (batch * length) read only the active rows
    """

    name = "spark_ffn"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        k: int,
        r: int | None = None,
        act: str = "gelu",
        soft: bool = True,
        gather_tokens: int = 1,
    ):
        super().__init__()
        require_positive(SparkFFN, d_model=d_model, d_hidden=d_hidden, k=k)
        if k > d_hidden or (soft and k == d_hidden):
            raise ValueError(
                f"SparkFFN: k={k} active channels, but there are d_hidden={d_hidden}. Give a smaller k (k = d_hidden "
                f"is possible with soft=False)."
            )
        if r is not None and not 1 <= r < d_model:
            raise ValueError(f"SparkFFN: r={r} must lie between 1 and d_model - 1 = {d_model - 1}, or be None.")
        if gather_tokens < 0:
            raise ValueError(f"SparkFFN: gather_tokens must be at least 0, not {gather_tokens}.")
        self.k, self.r, self.soft, self.gather_tokens = k, r, soft, gather_tokens
        self.z = quantile(k, d_hidden)
        self.act = activation(act)
        self.predictor = nn.Linear(d_model if r is None else r, d_hidden, bias=False)
        self.value = nn.Linear(d_model if r is None else d_model - r, d_hidden, bias=False)
        self.out = nn.Parameter(torch.empty(d_hidden, d_model))
        nn.init.uniform_(self.out, -(d_hidden**-0.5), d_hidden**-0.5)  # as nn.Linear(d_hidden, d_model)

    @classmethod
    def from_glu(cls, glu: GLU, k: int, soft: bool = False, gather_tokens: int = 1) -> SparkFFN:
        """A trained GLU whose channels are used where its gate is large (r = None). GLUs with biases are refused."""
        config = glu.spec()
        if config["bias"]:
            raise ValueError("SparkFFN: the GLU has biases, which this part does not have.")
        part = cls(config["d_model"], config["d_hidden"], k, act=config["act"], soft=soft, gather_tokens=gather_tokens)
        part.to(glu.up.weight)
        with torch.no_grad():
            part.predictor.weight.copy_(glu.gate.weight)
            part.value.weight.copy_(glu.up.weight)
            part.out.copy_(glu.down.weight.T)
        return part

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        seen, rest = (tokens, tokens) if self.r is None else (tokens[:, : self.r], tokens[:, self.r :])
        gate, keep = self.gate(seen)
        if tokens.shape[0] <= self.gather_tokens and not torch.is_grad_enabled():
            rest, value, out = (t.to(gate.dtype) for t in (rest, self.value.weight, self.out))
            y = _active_rows(rest, gate, keep, value, out, self.k)
        else:
            y = torch.where(keep, gate * self.value(rest), 0) @ self.out
        return y.reshape(x.shape)

    def gate(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(act(a), active): the gate's values, to be used where active, both (tokens, d_hidden)."""
        predicted = self.predictor(seen)
        theta = threshold(predicted, self.z)
        return self.act(predicted - theta if self.soft else predicted), predicted > theta

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        d_hidden = self.out.shape[0]
        unread = 1 - most_kept(self.k, d_hidden) / d_hidden
        return Cost(
            params=params,
            active_params=params - round(unread * (self.value.weight.numel() + self.out.numel())),
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
