"""Direct logit attribution: what the embedding, every mixer and every feed-forward add to a logit.

The stream that leaves the last block is a sum: what entered the first block, and what each sublayer added. With the
scale s of the final norm held at its value at that token, logits are linear in the stream:

    logit[v] = k * (w_v . (g * c(x_0 + sum_i y_i) / s + b_norm)) + b_v

with g and b_norm the norm's weight and bias, c the centring of a LayerNorm (nothing for RMSNorm), and k a constant
factor some heads have. So each y_i has a share, and the shares add up to the logit.

Where the sublayers of a block do not add up to what the block adds (Post-LN), the block is attributed as a whole.
Paper: "Interpreting Key Mechanisms of Factual Recall in Transformer-Based Language Models" attributes topic tokens to
heads and feed-forwards this way; its regression of feed-forwards on heads is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy import Anatomy, Replay
from layersmith.explaining.norms import LinearNorm, linear_norm

#: Relative error up to which two ways to compute the same thing count as equal in float32.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Head:
    """The linear map from the stream to centred logits at frozen norm scales.

    weight  (V, D) and bias (V,) of the unembedding, with `factor` on both products
    """

    norm: LinearNorm
    weight: Tensor
    bias: Tensor
    factor: float

    def scales(self, stream: Tensor) -> Tensor:
        """1 / s of the final norm at every token of the stream (..., D): (...,)."""
        return self.norm.scales(stream)

    def shares(self, part: Tensor, scales: Tensor, tokens: Tensor) -> Tensor:
        """What a part (..., D) of the stream adds to the logit of tokens (...,), less the mean over the vocabulary."""
        return self._of(self.norm.part(part, scales), tokens)

    def constant(self, tokens: Tensor) -> Tensor:
        """What the biases of norm and head add, whatever the stream is."""
        bias = self.bias[tokens] - self.bias.mean()
        return self._of(self.norm.shift.expand(*tokens.shape, -1), tokens) + bias

    def _of(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.factor * ((self.weight[tokens] - self.weight.mean(0)) * x).sum(-1)


def head_of(model: Any, anatomy: Anatomy, stream: Tensor, logits: Tensor) -> Head | str:
    """The model's head, or why its logits are no sum.

    stream, logits  (B, T, D) and (B, T, V): what left the last block, and the model's answer to it
    """
    if stream.dtype.itemsize < 4:
        return "the model is in half precision, in which shares do not add up; load it in float32"
    stack = list(anatomy.blocks)[-1]
    final = [s for s in anatomy.of_kind("norm") if s.role == "final_norm" and s.stack == stack]
    unembed = getattr(model, "get_output_embeddings", lambda: None)()
    weight = getattr(unembed, "weight", None)
    if not final or not isinstance(weight, Tensor) or weight.dim() != 2:
        return "the model has no final norm followed by an unembedding matrix"
    norm = model.get_submodule(final[0].modules[0])
    given = getattr(unembed, "bias", None)
    bias = torch.zeros_like(weight[:, 0]) if given is None else given
    normed = norm(stream)
    plain = normed @ weight.T
    if plain.shape != logits.shape:
        return "the model does not answer with a logit for every token of its vocabulary at every position"
    factor = float((plain * (logits - bias)).sum() / plain.square().sum())
    frozen = linear_norm(norm, stream)
    if frozen is None:
        return "its final norm is neither a LayerNorm nor an RMSNorm"
    if not _equal(factor * plain + bias, logits):
        return "its logits are no linear map of the normed stream"
    return Head(frozen, weight, bias, factor)


def parts_of(replay: Replay, anatomy: Anatomy, entering: list[Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is added up in the stream of the last stack, by name: "embedding", then sublayers, or whole blocks.

    entering  what enters each block, then what leaves the last one: (B, T, D) each (`Replay.block_inputs`)
    """
    stack = anatomy.blocks[list(anatomy.blocks)[-1]]
    first = replay.blocks.index(stack[0])
    parts = {"embedding": entering[first]}
    for index in range(first, replay.n_blocks):
        block = next(s for s in anatomy.of_kind("block") if s.modules[0] == replay.blocks[index])
        inside = {s.name: s for s in anatomy.in_block(block.name)}
        # What a norm on the sublayer's output (Gemma) hands on is what reaches the stream.
        last = {
            name: inside.get(f"{name}_post_norm", site).modules[-1]
            for name, site in inside.items()
            if site.kind in ("ffn", "mixer")
        }
        added = entering[index + 1] - entering[index]
        _, calls = replay.capture(index, entering[index], batch, sorted(set(last.values())))
        once = all(len(calls[path]) == 1 for path in last.values())
        outputs = {name: calls[path][0].hidden for name, path in last.items()} if once else {}
        fits = bool(outputs) and all(y.numel() == added.numel() for y in outputs.values())
        outputs = {name: y.reshape(added.shape) for name, y in outputs.items()} if fits else {}
        total = sum(outputs.values(), torch.zeros_like(added))
        parts |= outputs if outputs and _equal(total, added) else {block.name: added}
    return parts


def _equal(a: Tensor, b: Tensor) -> bool:
    return float((a - b).norm()) <= TOLERANCE * float(b.norm())
