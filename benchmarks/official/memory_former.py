"""Our `memory_linear` and `memory_former` beside the authors' layers (C0-Design/MemoryFormer, memory_module).

    python benchmarks/official/memory_former.py CHECKOUT COMMIT

Their module compiles C++ and CUDA when imported; here only its plain PyTorch path is used, so that is switched off.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
import torch
from torch import nn
from torch.utils import cpp_extension

from layersmith.ffn.memory_former import MemoryFormer
from layersmith.kernels import native
from layersmith.linear.memory_linear import MemoryLinear

D, BITS, EXTRA = 48, 6, 2


def their_layer(checkout: Path) -> type[nn.Module]:
    native.loaded()  # our own kernels, while there is a loader
    cpp_extension.load = lambda *args, **kwargs: None
    sys.modules["ccs_cpu"] = ModuleType("ccs_cpu")
    kernel = ModuleType("memory_module.gather.kernel")
    kernel.gather = None  # type: ignore[attr-defined]
    sys.modules["memory_module.gather.kernel"] = kernel
    sys.path.insert(0, str(checkout))
    from memory_module.memory import MemoryLayer  # type: ignore[import-not-found]

    return MemoryLayer  # type: ignore[no-any-return]


def configuration(d_in: int, d_out: int, bits: int) -> dict[str, object]:
    return {
        "hidden_size": d_in, "output_size": d_out, "ffn_num_table": d_in // bits, "code_length": bits,
        "block_size": 64, "remove_projection": True, "act_fn": "silu", "projection_type": "dense",
    }  # fmt: skip


def copy_tables(ours: MemoryLinear, theirs: nn.Module) -> None:
    with torch.no_grad():
        ours.tables.copy_(theirs.tables.view_as(ours.tables))
        ours.bias.copy_(theirs.bias)  # type: ignore[union-attr]


def main() -> None:
    checkout, commit = Path(sys.argv[1]), sys.argv[2]
    layer = their_layer(checkout)
    torch.manual_seed(0)
    hidden = D // BITS * (BITS + EXTRA)
    first = layer(configuration(D, hidden, BITS), force_torch_op=True)
    second = layer(configuration(hidden, D, BITS + EXTRA), force_torch_op=True)
    theirs = nn.Sequential(first, nn.LayerNorm(hidden), second)
    ours = MemoryFormer(D, BITS, EXTRA, weight="scaled")
    copy_tables(ours.up, first)
    copy_tables(ours.down, second)
    source = f"github:C0-Design/MemoryFormer@{commit}, memory_module/memory.py (the authors'), PyTorch path"
    for name, mine, other in (("memory_linear", ours.up, first), ("memory_former", ours, theirs)):
        x = torch.randn(3, 40, D)
        pairs = []
        for module in (mine, other):
            at = x.clone().requires_grad_()
            y = module(at)
            tables = ours.up.tables if module is mine else first.tables
            gradients = torch.autograd.grad((y * torch.linspace(-1, 1, y.shape[-1])).sum(), [at, tables])
            pairs.append([y.detach(), gradients[0], gradients[1].flatten(0, -2)])
        worst = max((a - b).abs().max().item() for a, b in zip(*pairs, strict=True))
        print(name, [f"{(a - b).abs().max():.1e} of {b.abs().max():.1e}" for a, b in zip(*pairs, strict=True)])
        compared = f"outputs, gradients of x and of the first tables, float32, d {D}, {BITS} bits; weight scaled, t = 1"
        record.save_official(name, name, source, compared, worst, 1e-4)


if __name__ == "__main__":
    main()
