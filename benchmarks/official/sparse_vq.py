"""Our `sparse_vq` beside the authors' VectorQuantize with the settings of their SVQ_backbone.

    python benchmarks/official/sparse_vq.py CHECKOUT_OF_SPARSE_VQ          (needs einops)

Theirs gets our sparse places through its SparseLinear's `connectivity`. All gradients are compared in evaluation, where
theirs flow to codes and sparse map as ours always do; in training theirs stop there, so only what passes through z is.
The commitment losses differ by design and are left out (see `layersmith.ffn.sparse_vq`).
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit, empty_package, load

from layersmith.contract import aux_losses
from layersmith.ffn.sparse_vq import SparseVQ

D, CODES, HEADS = 40, 64, 4


def pair(checkout: Path) -> tuple[SparseVQ, Any]:
    """Ours and theirs with equal weights; theirs without its commitment loss."""
    empty_package("layers", checkout / "layers")
    module = load(checkout, "layers/SVQ_block.py", "layers.SVQ_block")
    ours = SparseVQ(D, CODES, HEADS, commitment=0.0)
    theirs = module.VectorQuantize(
        D, CODES, decay=0.8, commitment_weight=0.0, orthogonal_reg_weight=0.8, heads=HEADS,
        separate_codebook_per_head=True, ema_update=False, learnable_codebook=True,
    )  # fmt: skip
    rows = torch.arange(D).repeat_interleave(ours.places.shape[1])
    theirs.sparselinear = module.SparseLinear(D, D, connectivity=torch.stack((rows, ours.places.flatten())))
    with torch.no_grad():
        theirs.sparselinear.weights.copy_(ours.sparse.flatten())
        theirs.sparselinear.bias.copy_(ours.shift)
        theirs._codebook.embed.copy_(ours.codebook)
    theirs.project_in.load_state_dict(ours.project_in.state_dict())
    theirs.project_out.load_state_dict(ours.project_out.state_dict())
    return ours, theirs


def differences(ours: SparseVQ, theirs: Any, x: Tensor, training: bool) -> list[tuple[Tensor, Tensor]]:
    """Outputs, the orthogonality loss in training, and gradients."""
    x, again = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = ours.train(training)(x)
    target, indices, loss = theirs.train(training)(again)
    pairs = [(y, target)]
    mine: list[Any] = [x, *ours.project_in.parameters(), *ours.project_out.parameters()]
    other = [again, *theirs.project_in.parameters(), *theirs.project_out.parameters()]
    assert len(indices.unique()) > CODES // 2
    if training:
        pairs.append((aux_losses(ours)["orthogonal"], loss.squeeze()))
    else:
        mine += [ours.codebook, ours.sparse, ours.shift]
        other += [theirs._codebook.embed, theirs.sparselinear.weights, theirs.sparselinear.bias]
    slope = torch.randn_like(y)
    mine = list(torch.autograd.grad((y * slope).sum(), mine))
    other = list(torch.autograd.grad((target * slope).sum(), other))
    return pairs + [(a, b.reshape(a.shape)) for a, b in zip(mine, other, strict=True)]


def main() -> None:
    checkout = Path(sys.argv[1])
    torch.manual_seed(0)
    ours, theirs = pair(checkout)
    x = torch.randn(2, 50, D)
    pairs = [found for training in (True, False) for found in differences(ours, theirs, x, training)]
    print([f"{(a - b).abs().max():.1e} of {b.abs().max():.1e}" for a, b in pairs])
    path = record.save_official(
        "sparse_vq",
        "sparse_vq",
        f"github:Yanjun-Zhao/Sparse-VQ@{commit(checkout)}, layers/SVQ_block.py VectorQuantize",
        f"float32, width {D}, {HEADS} heads of {CODES} codes, sparse map at our places: outputs in training and in "
        "use, the orthogonality loss, all gradients in use, those of input and projections in training (relative to "
        "the largest); not the commitment loss nor, in training, gradients of codes and sparse map, which differ by "
        "design",
        max(float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in pairs),
        1e-5,
        f"einops {version('einops')}",
    )
    print(path)


if __name__ == "__main__":
    main()
