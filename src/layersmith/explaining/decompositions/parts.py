"""The stream as a sum of parts, carried through the blocks without mixing them: every part sum is the whole, exactly.

Parts are what each input token brought to a position, and one more for the biases. What each operation does to a part
(P of them, x = sum_p x_p, with everything that is held marked by a bar):

    linear map     W x_p                                              the bias by the rule's `biased`
    norm           gain * c(x_p) / s(x-bar) + shift as a bias
    attention      sum_j a-bar_ij W_v x_jp                            weights are those of the whole
    activation, product of gate and value                             by the rule

    DecompX        f(z)/z-bar z_p,  f(0) as a bias;  product: half with the gate held, half with the value held. P is
                   one part for each token and one for the biases, which takes all of them
    contextual     two parts, relevant r and the rest i:  i' = f(i), r' = f(r + i) - f(i);  product: i' = i i, r' the
                   remainder. Biases are shared out in proportion to |r| and |i|

Papers: arXiv 2306.02873, "DecompX: Explaining Transformers Decisions by Propagating Token Decomposition" (confirmed in
the released code); "Mechanistic Interpretation through Contextual Decomposition in Transformers". Differs: the products
of gated feed-forwards, which neither has, and RMS norms; biases stay a part of their own in DecompX, which is an option
there (else it shares them out by |part . bias|); its pooler and classifier are not followed; no signs are mended
between layers in contextual decomposition, which would break the sum.

Shapes: parts (P, N, T, D), N decompositions at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.norms import LinearNorm
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.mixer.shared.heads import merge_heads, split_heads
from layersmith.mixer.softmax import SoftmaxAttention

Activation = Callable[[Tensor], Tensor]


class Rule(ABC):
    """How parts go through what is not linear."""

    @abstractmethod
    def biased(self, parts: Tensor, bias: Tensor) -> Tensor:
        """The parts with a bias (D,) among them."""

    @abstractmethod
    def activated(self, f: Activation, parts: Tensor) -> Tensor:
        """Parts of f(sum of the parts)."""

    @abstractmethod
    def multiplied(self, gate: Tensor, value: Tensor) -> Tensor:
        """Parts of (sum of the gate's) * (sum of the value's)."""


class DecompX(Rule):
    def biased(self, parts: Tensor, bias: Tensor) -> Tensor:
        return torch.cat((parts[:-1], parts[-1:] + bias))

    def activated(self, f: Activation, parts: Tensor) -> Tensor:
        whole = parts.sum(0)
        offset = f(torch.zeros((), dtype=parts.dtype, device=parts.device))
        # A whole of zero gives nothing beyond f(0), whatever the slope: its parts cancel.
        slope = (f(whole) - offset) / torch.where(whole == 0, torch.ones_like(whole), whole)
        return self.biased(parts * slope, offset)

    def multiplied(self, gate: Tensor, value: Tensor) -> Tensor:
        return (gate.sum(0) * value + gate * value.sum(0)) / 2


class Contextual(Rule):
    def biased(self, parts: Tensor, bias: Tensor) -> Tensor:
        size = parts.abs()
        total = size.sum(0)
        share = torch.where(total > 0, size / total.clamp_min(1e-30), torch.full_like(size, 0.5))
        return parts + share * bias

    def activated(self, f: Activation, parts: Tensor) -> Tensor:
        rest = f(parts[1])
        return torch.stack((f(parts.sum(0)) - rest, rest))

    def multiplied(self, gate: Tensor, value: Tensor) -> Tensor:
        rest = gate[1] * value[1]
        return torch.stack((gate.sum(0) * value.sum(0) - rest, rest))


@dataclass(frozen=True)
class Sublayer:
    """One step on the stream, recognised: its norms and the operator between them. `sees` as in `stream.Step`."""

    operator: SoftmaxAttention | MLP | GLU
    norm: LinearNorm | None
    post: LinearNorm | None
    closing: LinearNorm | None
    sees: int


@torch.no_grad()
def through(block: list[Sublayer], parts: Tensor, rule: Rule) -> Tensor:
    """Parts of what enters the block -> parts of what leaves it."""
    return _streams(block, parts, rule)[-1]


@torch.no_grad()
def attention_of(block: list[Sublayer], x: Tensor) -> Tensor:
    """(T, T): what each position reads of each other when x (T, D) enters the block, mean over heads and attentions."""
    streams, whole = _streams(block, x[None, None], DecompX()), DecompX()
    found = []
    for step in block:
        if isinstance(step.operator, SoftmaxAttention):
            read = _normed(step.norm, streams[step.sees], whole)[0]
            q, k, v = step.operator.project(read, None, None)
            ones = torch.eye(len(x), dtype=x.dtype, device=x.device).expand(*v.shape[:2], -1, -1)
            found.append(step.operator.attend(q, k, ones, None)[0].mean(0))
    return torch.stack(found).mean(0)


def _streams(block: list[Sublayer], parts: Tensor, rule: Rule) -> list[Tensor]:
    """The parts of the stream before the first sublayer and after each."""
    streams = [parts]
    for step in block:
        read = _normed(step.norm, streams[step.sees], rule)
        operator = step.operator
        if isinstance(operator, SoftmaxAttention):
            written = _attended(operator, read, rule)
        else:
            written = _fed(operator, read, rule)
        total = streams[-1] + _normed(step.post, written, rule)
        streams.append(_normed(step.closing, total, rule))
    return streams


def _normed(norm: LinearNorm | None, parts: Tensor, rule: Rule) -> Tensor:
    if norm is None:
        return parts
    return rule.biased(norm.part(parts, norm.scales(parts.sum(0))), norm.shift)


def _mapped(linear: nn.Linear, parts: Tensor, rule: Rule) -> Tensor:
    y = F.linear(parts, linear.weight)
    return y if linear.bias is None else rule.biased(y, linear.bias)


def _attended(attention: SoftmaxAttention, parts: Tensor, rule: Rule) -> Tensor:
    """Attention is linear in its values, so each part's values go through it with the queries and keys of the whole."""
    q, k, _ = attention.project(parts.sum(0), None, None)
    values = _mapped(attention.v, parts, rule)
    mixed = [merge_heads(attention.attend(q, k, split_heads(v, attention.head_dim), None)) for v in values]
    return _mapped(attention.o, torch.stack(mixed), rule)


def _fed(ffn: MLP | GLU, parts: Tensor, rule: Rule) -> Tensor:
    up = _mapped(ffn.up, parts, rule)
    if isinstance(ffn, MLP):
        return _mapped(ffn.down, rule.activated(ffn.act, up), rule)
    gate = rule.activated(ffn.act, _mapped(ffn.gate, parts, rule))
    return _mapped(ffn.down, rule.multiplied(gate, up), rule)


def of_tokens(x: Tensor) -> Tensor:
    """What enters the first block, (T, D), as parts (T + 1, 1, T, D): token p at position p, and no biases yet."""
    length = len(x)
    parts = x.new_zeros(length + 1, 1, length, x.shape[-1])
    places = torch.arange(length)
    parts[places, 0, places] = x
    return parts


def against_rest(x: Tensor) -> Tensor:
    """(T, D) as parts (2, T, T, D): in the n-th decomposition token n is relevant and all others the rest."""
    own = torch.eye(len(x), dtype=x.dtype, device=x.device)[:, :, None]
    return torch.stack((own * x, (1 - own) * x))
