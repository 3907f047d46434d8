"""Remove a block and fuse its weights into the block before it, through multipliers that are learned.

For each pair of weight matrices of the same name, W of the block that stays and W_p of the one that goes:

    W' = W + (B A) * W_p + B_l A_l,      b' = b + c * b_p        (* is element by element)

with B (d_out, r), A (r, d_in) a low-rank multiplier and B_l A_l a low-rank update (LoRA). W and W_p are frozen; B, B_l
and c start at 0, where the pair is what plain removal leaves of it. The rest is trained so that the block that stays
ends in what the two ended in, and folded: what is left is a block as it was, and one block less.

Paper: "FuseGPT: Learnable Layers Fusion of Generative Pre-trained Transformers"; the fused weight, its start and the
frozen matrices confirmed in the released code.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.anatomy import Site, replacement_for
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.linear.dense import Dense
from layersmith.refitting.method import Method, Settings, weight_and_bias
from layersmith.refitting.view import Call, SublayerView

RANK, STEPS, LR = 32, 60, 1e-2


class FuseGPT(Method):
    name = "fusegpt"
    kinds = ("block",)
    papers = ("fusegpt-learnable-layers-fusion-generative",)
    missing = (
        "groups of more than two blocks, fusing what was fused before, and macro influence, by which it takes one "
        "block after another; here the search chooses which blocks go"
    )
    default = False
    saves = ("latency", "params", "bytes", "flops", "kv")
    requires = "a block after it with weight matrices of the same names and shapes, and another one behind that"
    statistics = ("stream",)
    when_it_pays = "Depth pruning where some minutes of training are to be had for each block that goes."
    differs = (
        "It is trained on the relative squared error of the stream, where the released code compares softmaxes of it."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if view.blocks_after < 1:
            return "no block follows whose output was kept"
        own, others = view.linears(), _matrices(view, _next(view))
        if not own or _shapes(own, view.site) != _shapes(others, _next(view)):
            return "the block after it has weight matrices of other names or shapes"
        return None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"rank": RANK}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        generator = torch.Generator().manual_seed(view.seed)
        path, other = view.site.modules[0], _next(view).modules[0]
        pruned = _matrices(view, _next(view))
        fused = {
            name: FusedLinear(module, pruned[other + name.removeprefix(path)], settings["rank"], generator)
            for name, module in view.linears().items()
        }
        train(view, [(Edit(name, {}, {}), module) for name, module in fused.items()])
        made: Replacement = []
        for name, module in fused.items():
            dense = module.folded()
            made.append((Edit(name, dense.spec(), {}), dense))
        zero = catalogue.build({"name": "zero", "d_model": view.site.d_model}).to(view.device)
        return [*made, *replacement_for(view.model, _next(view), zero)]

    @torch.no_grad()
    def error(self, view: SublayerView, settings: Settings, replacement: Replacement) -> float:
        """Relative to what the two blocks together add to the stream."""
        return float(_error(view, replacement, view.holdout))


class FusedLinear(nn.Module):
    """W x + b with the multipliers and the update that are trained; `folded` is the same map as one matrix."""

    def __init__(self, kept: Any, pruned: Any, rank: int, generator: torch.Generator):
        super().__init__()
        (weight, bias), (pruned_weight, pruned_bias) = weight_and_bias(kept), weight_and_bias(pruned)
        self.weight, self.pruned = weight.float(), pruned_weight.float()
        self.biases = None if bias is None or pruned_bias is None else (bias.float(), pruned_bias.float())
        d_out, d_in = weight.shape
        self.b, self.b_update = (nn.Parameter(weight.new_zeros(d_out, rank).float()) for _ in range(2))
        drawn = [(2 * torch.rand(rank, d_in, generator=generator, device="cpu") - 1) * d_in**-0.5 for _ in range(2)]
        self.a, self.a_update = (nn.Parameter(a.to(weight.device)) for a in drawn)
        self.c = None if self.biases is None else nn.Parameter(torch.zeros_like(self.biases[0]))

    def fused(self) -> tuple[Tensor, Tensor | None]:
        weight = self.weight + (self.b @ self.a) * self.pruned + self.b_update @ self.a_update
        if self.biases is None or self.c is None:
            return weight, None
        return weight, self.biases[0] + self.c * self.biases[1]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.fused())

    @torch.no_grad()
    def folded(self) -> Dense:
        return Dense.from_weight(*self.fused())


@torch.enable_grad()
def train(view: SublayerView, fusing: Replacement, steps: int = STEPS) -> None:
    """Train what stands at the block's matrices, in place; the best state on the holdout calls stays, the start too."""
    parameters = [p for _, module in fusing for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps + 1, pct_start=0.1)
    order = torch.Generator().manual_seed(view.seed)
    best, kept = _heldout(view, fusing), [copy.deepcopy(module.state_dict()) for _, module in fusing]
    for step in range(1, steps + 1):
        call = view.fit[int(torch.randint(len(view.fit), (1,), generator=order, device="cpu"))]
        optimizer.zero_grad(set_to_none=True)
        _error(view, fusing, [call]).backward()
        optimizer.step()
        schedule.step()
        if step in (steps // 2, steps) and (error := _heldout(view, fusing)) < best:
            best, kept = error, [copy.deepcopy(module.state_dict()) for _, module in fusing]
    for (_, module), state in zip(fusing, kept, strict=True):
        module.load_state_dict(state)


@torch.no_grad()
def _heldout(view: SublayerView, replacement: Replacement) -> float:
    return float(_error(view, replacement, view.holdout))


def _error(view: SublayerView, replacement: Replacement, calls: list[Call]) -> Tensor:
    """||y' - y||^2 / ||y - x||^2 over real tokens, where x enters the first block and y leaves the second."""
    wrong, total = torch.zeros((), device=view.device), torch.zeros((), device=view.device)
    for call, end, out in zip(calls, view.stream(calls, 2), view.run(replacement, calls), strict=True):
        target = call.real(end).float()
        wrong = wrong + (call.real(out).float() - target).square().sum()
        total = total + (target - call.real(call.input)).square().sum()
    return wrong / total.clamp_min(1e-12)


def _next(view: SublayerView) -> Site:
    blocks = view.anatomy.of_kind("block")
    return blocks[[site.name for site in blocks].index(view.site.name) + 1]


def _matrices(view: SublayerView, site: Site) -> dict[str, nn.Module]:
    """Model path -> weight matrices of another block, as `SublayerView.linears` gives those of its own."""
    top = view.model.get_submodule(site.modules[0])
    kinds = {type(module) for module in view.linears().values()}
    return {f"{site.modules[0]}.{name}": m for name, m in top.named_modules() if type(m) in kinds}


def _shapes(matrices: dict[str, nn.Module], site: Site) -> dict[str, tuple[int, ...]]:
    """Name inside the block -> shape of the weight, and whether there is a bias."""
    found = {path.removeprefix(site.modules[0]): weight_and_bias(module) for path, module in matrices.items()}
    return {name: (*weight.shape, int(bias is not None)) for name, (weight, bias) in found.items()}
