"""Our routed feed-forwards beside the authors' released layers, with equal weights: outputs, gradients, losses.

python benchmarks/official/routing.py fff ULTRAFASTBERT            path of a checkout of pbelcak/UltraFastBERT
python benchmarks/official/routing.py fff_leaves EXPERIMENTS       AndreasCharalamp/fastfeedforward-experiments
python benchmarks/official/routing.py sigma_moe MOE_LAYER          RobertCsordas/moe_layer
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_official

from layersmith.contract import aux_losses
from layersmith.ffn.fff import FFF
from layersmith.ffn.fff_leaves import FFFLeaves
from layersmith.ffn.sigma_moe import SigmaMoE

D, TOKENS = 24, 200


def load(path: Path, name: str = "theirs") -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def worst(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def slopes(y: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    weighted = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
    return list(torch.autograd.grad(weighted, tensors, retain_graph=True))


def fff(checkout: Path) -> tuple[float, str, str]:
    path = "training/cramming/architectures/fff.py"
    found = 0.0
    for depth, trees in ((0, 1), (4, 1), (3, 3)):
        theirs, ours = load(checkout / path).FFF(D, D, depth, trees).double(), FFF(D, depth, trees).double()
        with torch.no_grad():
            theirs.linear_in.weight.copy_(ours.up.flatten(0, 1))
            theirs.linear_in.bias.copy_(ours.bias.flatten())
            theirs.linear_out.weight.copy_(ours.down.flatten(0, 1).T)
        x = torch.randn(TOKENS, D, dtype=torch.double, requires_grad=True)
        expected = theirs(x)
        inner = [x, theirs.linear_in.weight, theirs.linear_in.bias, theirs.linear_out.weight]
        gx, gw, gb, gv = slopes(expected, inner)
        for training in (True, False):
            y = ours.train(training)(x)
            ax, aw, ab, av = slopes(y, [x, ours.up, ours.bias, ours.down])
            mine = [y, ax, aw.flatten(0, 1), ab.flatten(), av.flatten(0, 1).T]
            found = max(found, worst(mine, [expected, gx, gw, gb, gv]))
    compared = "outputs and all gradients, float64, depth 0, 4 and 3 trees of depth 3; ours in training and walking"
    return found, path, compared


def fff_leaves(checkout: Path) -> tuple[float, str, str]:
    path = "ExperimentsReproduction/Master Leaf + Load Balance/fff.py"
    found = 0.0
    for depth in (1, 3):  # float32, which their code asks for by name
        theirs, ours = load(checkout / path).FFF(D, 5, D, depth, usage_mode="none"), FFFLeaves(D, depth, 5)
        with torch.no_grad():
            pairs = [
                (theirs.node_weights, ours.node),
                (theirs.node_biases, ours.node_bias[:, None]),
                (theirs.w1s, ours.up.transpose(1, 2)),
                (theirs.b1s, ours.up_bias),
                (theirs.w2s, ours.down.transpose(1, 2)),
                (theirs.b2s, ours.down_bias),
                (theirs.magic_w1, ours.master.up.weight.T[None]),
                (theirs.magic_b1, ours.master.up.bias[None]),
                (theirs.magic_w2, ours.master.down.weight.T[None]),
                (theirs.magic_b2, ours.master.down.bias[None]),
            ]
            for other, mine in pairs:
                other.copy_(mine)
        x = torch.randn(TOKENS, D)
        expected, entropies, balance = theirs.train()(x, return_entropies=True)
        y = ours.train()(x)
        losses = aux_losses(ours)
        (y.sum() + losses["harden"] + losses["balance"]).backward()
        scaled = 2**depth * balance / TOKENS**2
        (expected.sum() + entropies.mean() + scaled).backward()
        grads = [ours.node.grad, ours.k.grad, ours.up.grad.transpose(1, 2)]
        others = [theirs.node_weights.grad, theirs.k.grad, theirs.w1s.grad]
        size = max(g.abs().max().item() for g in others)
        found = max(found, worst(grads, others) / size, worst([y], [expected]))
        found = max(found, worst([losses["harden"], losses["balance"]], [entropies.mean(), scaled]))
        with torch.no_grad():
            found = max(found, worst([ours.eval()(x)], [theirs.eval()(x)]))
    compared = (
        "outputs in training and in use, both losses, and gradients of nodes, leaves and blend (relative to the "
        "largest), float32, depth 1 and 3; their balancing loss times 2^depth / tokens^2 as in their training script"
    )
    return found, path, compared


def sigma_moe(checkout: Path) -> tuple[float, str, str]:
    path = "cuda_src/moe_layer/moe_layer_simple.py"
    package, kernel = ModuleType("released"), ModuleType("released.cvmm")
    package.__path__ = []  # type: ignore[attr-defined]
    kernel.CVMMSel = SimpleNamespace  # type: ignore[attr-defined]
    kernel.cvmm_prepare_sel = lambda sel, n: SimpleNamespace(raw_sel=sel.long())  # type: ignore[attr-defined]
    kernel.cvmm = lambda x, sel, keys: torch.einsum("...d,...dh->...h", x, keys[sel.raw_sel])  # type: ignore[attr-defined]
    sys.modules.update({"released": package, "released.cvmm": kernel})
    module = load(checkout / path, "released.moe_layer_simple")
    found = 0.0
    for k in (1, 3, 6):
        theirs, ours = module.MoE(D, 6, 8, k).double(), SigmaMoE(D, 8, 6, k, entropy_weight=1.0).double()
        with torch.no_grad():
            theirs.keys.copy_(ours.up.transpose(1, 2))
            theirs.values.copy_(ours.down.transpose(1, 2))
            theirs.expert_sel.copy_(ours.router.weight)
        x = torch.randn(4, TOKENS // 4, D, dtype=torch.double, requires_grad=True)
        (expected, loss), y = theirs(x), ours.train()(x)
        entropy = aux_losses(ours)["entropy"]
        grads = slopes(y, [x, ours.router.weight, ours.up, ours.down])
        others = slopes(expected, [x, theirs.expert_sel, theirs.keys, theirs.values])
        grads[2], grads[3] = grads[2].transpose(1, 2), grads[3].transpose(1, 2)
        (slope,) = torch.autograd.grad(entropy, ours.router.weight)
        (other,) = torch.autograd.grad(loss, theirs.expert_sel)
        found = max(found, worst([y, entropy, slope, *grads], [expected, loss, other, *others]))
    compared = (
        "outputs, the entropy loss and all gradients, float64, 1, 3 and 6 of 6 experts; their GPU kernel for the "
        "product of each token with its expert's matrix is replaced by the same product in PyTorch"
    )
    return found, path, compared


OWNERS = {
    "fff": "pbelcak/UltraFastBERT",
    "fff_leaves": "AndreasCharalamp/fastfeedforward-experiments",
    "sigma_moe": "RobertCsordas/moe_layer",
}


def main() -> None:
    part, checkout = sys.argv[1], Path(sys.argv[2])
    torch.manual_seed(0)
    found, path, compared = {"fff": fff, "fff_leaves": fff_leaves, "sigma_moe": sigma_moe}[part](checkout)
    commit = subprocess.check_output(["git", "-C", str(checkout), "rev-parse", "HEAD"], text=True).strip()
    tolerance = 1e-5 if part == "fff_leaves" else 1e-10
    source = f"github:{OWNERS[part]}@{commit}, {path}"
    save_official(part, part=part, source=source, compared=compared, max_abs_diff=found, tolerance=tolerance)
    print(f"{part}: largest difference {found:.1e}")


if __name__ == "__main__":
    main()
