"""The hidden layer of a gated feed-forward in one pass: see `ffn.fused_glu` (float32 on the CPU, `gated.cpp`).

    y = silu(g) u          for rows [g, u] (..., 2 d_hidden) -> (..., d_hidden)

    if serves(gate_up): y = silu_gate(gate_up)          else: chunk, silu and a product, which is the reference

For inference: nothing is differentiated. And for a few tokens, whose three small operations take longer than what they
compute; above that torch's own are faster (`benchmarks/results/kernels_cpu.csv`: 3.4 times at 512 tokens).
"""

from __future__ import annotations

import torch
from torch import Tensor, library

from layersmith.kernels import native

#: Numbers in `gate_up` up to which the kernel is asked.
MOST = 8192

library.define("layersmith::silu_gate", "(Tensor gate_up) -> Tensor")
_silu_gate = torch.ops.layersmith.silu_gate.default


def serves(gate_up: Tensor) -> bool:
    """True when the kernel takes this tensor, is the faster one there, and nothing is to be differentiated."""
    return gate_up.numel() <= MOST and native.inferring() and native.serves(gate_up)


def silu_gate(gate_up: Tensor) -> Tensor:
    """y (..., d_hidden). Ask `serves` first."""
    y: Tensor = _silu_gate(gate_up)
    return y


@library.register_fake("layersmith::silu_gate")
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
