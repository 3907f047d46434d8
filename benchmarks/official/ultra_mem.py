"""Our `ultra_mem` beside a third-party port (lucidrains' ultra-mem, in the copy EDGARKAKANYAN/ultra-mem).

    python benchmarks/official/ultra_mem.py FILE_ultra_mem.py COMMIT          (needs einops and einx)

Only what the port computes as the paper's authors do is compared: it leaves keys unnormalised, retrieves for each core
alone, and overwrites instead of adding when two slots share a block, so one core without expansion, and no filter.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
import torch
from torch import nn

from layersmith.ffn.ultra_mem import UltraMem

D, N_KEYS, K, D_KEY, RANK = 64, 24, 24, 32, 3


def main() -> None:
    spec = importlib.util.spec_from_file_location("ultra_mem_port", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    port = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(port)
    torch.manual_seed(0)
    theirs = port.UltraMem(
        D, num_memories=N_KEYS**2, topk=K, dim_queries_keys=D_KEY, core_rank=RANK, core_heads=1, value_expansion=1,
        pre_query_causal_conv=False, qk_layernorm=False, prenorm=False, proj_out=True,
    ).eval()  # fmt: skip
    ours = UltraMem(D, N_KEYS, K, D_KEY, RANK, cores=1, expansion=1, act="relu", normalise=False).eval()
    with torch.no_grad():
        for p in (theirs.keys, theirs.core, theirs.memories):
            nn.init.normal_(p, std=p.shape[-1] ** -0.5)
        ours.query.weight.copy_(theirs.to_queries.weight.repeat(2, 1))
        ours.query.bias.zero_()
        ours.keys.copy_(theirs.keys)
        ours.core.copy_(theirs.core)
        _, value = ours.place(torch.arange(N_KEYS**2))
        ours.values[value] = theirs.memories[0]
        ours.down.weight.copy_(theirs.combine_values_to_out.weight)
    x = torch.randn(2, 50, D)
    y, target = ours(x), theirs(x)[0]
    slope = torch.linspace(-1, 1, D)
    mine = torch.autograd.grad((y * slope).sum(), [ours.core, ours.keys, ours.values])
    other = torch.autograd.grad((target * slope).sum(), [theirs.core, theirs.keys, theirs.memories])
    pairs = [(y, target), (mine[0], other[0]), (mine[1], other[1]), (mine[2][value], other[2][0])]
    print([f"{(a - b).abs().max():.1e} of {b.abs().max():.1e}" for a, b in pairs])
    record.save_official(
        "ultra_mem",
        "ultra_mem",
        f"github:EDGARKAKANYAN/ultra-mem@{sys.argv[2]}, ultra_mem/ultra_mem.py (copy of a third-party port)",
        f"outputs and gradients of core, keys and values, float32, d {D}, {N_KEYS}^2 slots, k {K} (no filter), rank "
        f"{RANK}; one core, no expansion, relu, without norms, where the port follows the paper's authors",
        max((a - b).abs().max().item() for a, b in pairs),
        1e-4,
        f"einops {version('einops')}, einx {version('einx')}",
    )


if __name__ == "__main__":
    main()
