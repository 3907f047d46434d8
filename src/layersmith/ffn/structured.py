"""Structured feed-forward: the MLP or GLU whose linear maps are low-rank, Monarch, block-dense, butterfly or noisy.

    y = L_down act(L_up x)      or, gated,      y = L_down( act(L_gate x) * L_up x )

Each L is one of the parts `low_rank`, `block_shuffle` (Monarch), `block_dense`, `butterfly`, `variational`.
Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D).

Self-guided training: such maps are hard to train from scratch, so each L may be helped by a dense matrix G that
starts as its own product and is faded out:  L_guided x = r G x + (1 - r) L x,  r = (1 + cos(pi progress)) / 2.
Call `guide(progress)` before each training step, with progress from 0 to 1, and `drop_guide()` at the end.

Paper: Wei et al. 2024, "Building on Efficient Foundations: Effectively Training LLMs with Structured
Feedforward Layers", arXiv 2406.16450. Confirmed in the authors' code (CLAIRE-Labo/StructuredFFN): mixture, cosine,
and that a step skips the guide with probability 1 - r to save its FLOPs, using L alone.
Differs from the paper: one draw decides for all maps of the layer; the guide of block-shuffle starts as the exact
product (their code leaves the shuffle out of it). The factors' product for decoding is `dense_weight()` of each map.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import activation
from layersmith.linear.block_dense import BlockDense
from layersmith.linear.block_shuffle import BlockShuffle
from layersmith.linear.butterfly import Butterfly
from layersmith.linear.low_rank import LowRank
from layersmith.linear.variational import VariationalLinear

#: structure -> (the linear part, the sizes it needs)
STRUCTURES = {
    "low_rank": (LowRank, ("rank",)),
    "block_shuffle": (BlockShuffle, ("blocks",)),
    "block_dense": (BlockDense, ("rank", "blocks")),
    "butterfly": (Butterfly, ()),
    "variational": (VariationalLinear, ()),
}

NO_GUIDE = "StructuredFFN: there is no guide. Build with self_guided=True, and use it before drop_guide()."


class StructuredFFN(FeedForward):
    """Feed-forward with structured linear maps.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    structure           "low_rank", "block_shuffle", "block_dense", "butterfly" or "variational"
    rank                inner width of low_rank and block_dense
    blocks              number of blocks of block_shuffle and block_dense
    act, gated, bias    as for `mlp`, or for `glu` when gated
    self_guided         add the dense guides of self-guided training
    """

    name = "structured"

    ratio: Tensor

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        structure: str = "low_rank",
        rank: int | None = None,
        blocks: int | None = None,
        act: str = "gelu",
        gated: bool = False,
        bias: bool = False,
        self_guided: bool = False,
    ):
        super().__init__()
        require_positive(StructuredFFN, d_model=d_model, d_hidden=d_hidden)
        self.act = activation(act)
        shapes = {"up": (d_model, d_hidden), "down": (d_hidden, d_model)}
        if gated:
            shapes["gate"] = (d_model, d_hidden)
        maps = {name: _structured(structure, *shape, rank, blocks, bias) for name, shape in shapes.items()}
        self.maps = nn.ModuleDict(maps)
        self.guides = nn.ParameterDict()
        if self_guided:
            self.guides.update({name: m.dense_weight().detach().clone() for name, m in maps.items()})
            self.register_buffer("ratio", torch.ones(()))
        self.guiding = self_guided

    def guide(self, progress: float) -> None:
        """Set the guides' share for the next training step; progress 0 is the start, 1 and above the end."""
        if not self.guides:
            raise ValueError(NO_GUIDE)
        ratio = (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
        self.ratio.fill_(ratio)
        self.guiding = torch.rand(()).item() < ratio

    def drop_guide(self) -> None:
        """Remove the guides from memory, from the state dict and from the configuration."""
        if not self.guides:
            raise ValueError(NO_GUIDE)
        self.guides.clear()
        del self.ratio
        self.guiding = False
        self._config["self_guided"] = False

    def forward(self, x: Tensor) -> Tensor:
        hidden = self._map("up", x)
        if "gate" in self.maps:
            hidden = self.act(self._map("gate", x)) * hidden
        else:
            hidden = self.act(hidden)
        return self._map("down", hidden)

    def _map(self, name: str, x: Tensor) -> Tensor:
        y = self.maps[name](x)
        if self.training and self.guiding:
            ratio = self.ratio.to(y.dtype)
            y = ratio * F.linear(x, self.guides[name]) + (1 - ratio) * y
        return y


def _structured(
    structure: str, d_in: int, d_out: int, rank: int | None, blocks: int | None, bias: bool
) -> LowRank | BlockShuffle | BlockDense | Butterfly | VariationalLinear:
    if structure not in STRUCTURES:
        raise ValueError(f"StructuredFFN: structure must be one of {', '.join(STRUCTURES)}, not {structure!r}.")
    part, needed = STRUCTURES[structure]
    sizes = {name: size for name, size in (("rank", rank), ("blocks", blocks)) if size is not None}
    if set(sizes) != set(needed):
        wanted = " and ".join(needed) or "no sizes"
        raise ValueError(f"StructuredFFN: {structure} needs {wanted}; given: {sizes or 'nothing'}.")
    return part(d_in, d_out, bias=bias, **sizes)
