"""Our norms and DeepScaleLM's variances beside the authors' code: outputs, gradients, running statistics.

    python benchmarks/official/norms.py SLAB PRE_RMSNORM DYT GET_STABLE

with the paths of checkouts of xinghaochen/SLAB, ZixuanJiang/pre-rmsnorm-transformer, jiachenzhu/DyT and
akhilkedia/TranformersGetStable. Each file is imported as it is; what it imports and does not need here is stood in for.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_official

from layersmith.norm.crms_norm import CRMSNorm
from layersmith.norm.dyt import DyT
from layersmith.norm.prep_bn import PRepBN
from layersmith.scheme.deep_scale_lm import correlations

COMMITS = {
    "SLAB": "f58db00b9db3959b5de03986f454aa5ff064279a",
    "pre-rmsnorm-transformer": "025d43a094a98ff681f12564b0ec567925c0232c",
    "DyT": "aab5dde0bc1bdd4410f687dad404c87b31808f90",
    "TranformersGetStable": "7f48e64db03fd68a4cacf8da9e9c1b375900e569",
}
D = 48


def load(path: Path, **stand_ins: Any) -> Any:
    for name, module in stand_ins.items():
        sys.modules[name.replace("__", ".")] = module
    spec = importlib.util.spec_from_file_location(f"theirs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(ours: nn.Module, theirs: nn.Module, x: Tensor, pairs: list[tuple[Any, Any]]) -> float:
    """Largest difference of outputs, input gradients and the gradients of the parameters in `pairs`."""
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, other = ours(a), theirs(b)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (other * weights).sum().backward()
    found = [out - other, a.grad - b.grad, *[p.grad.flatten() - q.grad.flatten() for p, q in pairs]]
    for p, q in pairs:
        p.grad = q.grad = None
    return max(float(t.detach().abs().max()) for t in found)


def crms_norm(path: Path) -> float:
    torch.compiler.set_stance("force_eager")
    theirs = load(path / "torch" / "customized_layer.py").CRMSNorm(D, eps=1e-5, elementwise_affine=False)
    x = 3 * torch.randn(4, 9, D) + 1
    return difference(CRMSNorm(D), theirs, x, [])


def dyt(path: Path) -> float:
    timm = types.ModuleType("timm.layers")
    timm.LayerNorm2d = type("LayerNorm2d", (nn.LayerNorm,), {})  # type: ignore[attr-defined]
    theirs = load(path / "dynamic_tanh.py", timm=types.ModuleType("timm"), timm__layers=timm).DynamicTanh(D, True)
    ours = DyT(D)
    pairs = [(ours.alpha, theirs.alpha), (ours.weight, theirs.weight), (ours.bias, theirs.bias)]
    shake(pairs)
    return difference(ours.double(), theirs.double(), torch.randn(4, 9, D).double(), pairs)


def prep_bn(path: Path) -> float:
    """Nine training passes, of which eight lower lambda (in steps that float32 holds exactly), and an evaluation."""
    module, steps = load(path / "classification" / "models" / "prepbn.py"), 8
    theirs = module.LinearNorm(D, nn.LayerNorm, module.RepBN, step=steps).double()
    theirs.iter.fill_(steps - 1)  # ours begins one step in
    ours = PRepBN(D, steps=steps).double()
    batch = theirs.norm2.bn
    pairs = [
        (ours.alpha, theirs.norm2.alpha),
        (ours.weight, batch.weight),
        (ours.bias, batch.bias),
        (ours.layer_norm.weight, theirs.norm1.weight),
        (ours.layer_norm.bias, theirs.norm1.bias),
    ]
    shake(pairs)
    worst = 0.0
    for _ in range(9):
        worst = max(worst, difference(ours, theirs, torch.randn(4, 9, D).double() * 2 + 1, pairs))
        worst = max(worst, float((ours.mean - batch.running_mean).abs().max()))
        worst = max(worst, float((ours.var - batch.running_var).abs().max()))
    x = torch.randn(4, 9, D).double()
    return max(worst, float((ours.eval()(x) - theirs.eval()(x)).abs().max()))


def deep_scale_lm(path: Path) -> float:
    """Standard deviations of value and output maps for every layer of models of three depths."""
    megatron = types.ModuleType("megatron")
    megatron.get_args = lambda: None  # type: ignore[attr-defined]
    file = path / "DSLM_signal_propagation_figures" / "megatron" / "model" / "utils.py"
    theirs, width, worst = load(file, megatron=megatron).sigma_attn_v_out, 1024, 0.0
    for depth in (12, 48, 192):
        settings = Namespace(hidden_size=width, hidden_dropout=0.0, num_layers=depth, moment_control_lambda_beta=True)
        settings.moment_control_lambda_sq, settings.moment_control_beta_sq = 1 - 2 / depth, 2 / depth
        for layer, r in enumerate(correlations(0.221, depth)):
            worst = max(worst, abs(theirs(settings, layer) - math.sqrt(math.sqrt(1 / r) / width)))
    return worst


def shake(pairs: list[tuple[Any, Any]]) -> None:
    with torch.no_grad():
        for p, q in pairs:
            p.add_(0.3 * torch.randn_like(p))
            q.copy_(p.reshape(q.shape))


def main() -> None:
    slab, pre_rms, dyt_path, stable = map(Path, sys.argv[1:])
    torch.manual_seed(0)
    for part, found, repository, file, compared, tolerance in (
        ("crms_norm", crms_norm(pre_rms), "ZixuanJiang/pre-rmsnorm-transformer", "torch/customized_layer.py",
         "outputs and input gradients, float32, gain 1 without bias (theirs has none), torch.compile off", 1e-5),
        ("dyt", dyt(dyt_path), "jiachenzhu/DyT", "dynamic_tanh.py",
         "outputs and all gradients, float64; timm, which it imports for another class, stood in for", 1e-12),
        ("prep_bn", prep_bn(slab), "xinghaochen/SLAB", "classification/models/prepbn.py",
         "nine training passes over the whole schedule and an evaluation: outputs, all gradients, running "
         "statistics, float64; their schedule moved on by one step, where ours begins", 1e-10),
        ("deep_scale_lm", deep_scale_lm(stable), "akhilkedia/TranformersGetStable",
         "DSLM_signal_propagation_figures/megatron/model/utils.py",
         "standard deviations of W_v and W_o in every layer at depths 12, 48, 192, width 1024, dropout 0; megatron, "
         "which it imports for its arguments, stood in for", 1e-12),
    ):  # fmt: skip
        source = f"github:{repository}@{COMMITS[repository.partition('/')[2]]}, {file}"
        save_official(part, part, source, compared, found, tolerance)
        print(part, found)


if __name__ == "__main__":
    main()
