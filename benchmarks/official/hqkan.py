"""Our circuits beside the authors' exact simulation, inside the HQKAN layer.

python benchmarks/official/hqkan.py QKAN        path of a checkout
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from official.checkout import commit, empty_package, load
from record import save_official

from layersmith.ffn.hqkan import HQKAN

D, BOTTLENECK, TOKENS = 24, 10, 200


def difference(checkout: Path, reps: int) -> float:
    """Outputs and the gradients of the input and of the angles."""
    empty_package("qkan", checkout / "src/qkan")
    empty_package("qkan.solver", checkout / "src/qkan/solver")
    solve = load(checkout, "src/qkan/solver/exact.py", "qkan.solver.exact").torch_exact_solver
    part = HQKAN(D, BOTTLENECK, reps)
    # Theirs are indexed (output, input).
    angles = torch.randn(BOTTLENECK, BOTTLENECK, reps + 1, 2, requires_grad=True)
    weights, biases = torch.randn(BOTTLENECK, BOTTLENECK, reps), torch.randn(BOTTLENECK, BOTTLENECK, reps)
    with torch.no_grad():
        joined = angles.clone()
        joined[:, :, 1:, 0] += biases  # ours has the bias of the loaded angle in the angle after it
        part.circuits.angles.copy_(joined.transpose(0, 1))
        part.circuits.weights.copy_(weights.transpose(0, 1))
    x = torch.randn(TOKENS, D)
    h = part.down(x)
    phi = solve(
        h, angles, weights, biases, reps, preacts_trainable=True, fast_measure=False, out_dim=BOTTLENECK,
        dtype=torch.complex128,
    )  # fmt: skip
    expected = part.up(part.base(part.act(h)) + (phi * part.scale.T).sum(-1))
    got = part(x)
    direction = torch.randn_like(got)
    theirs = torch.autograd.grad((expected * direction).sum(), angles)[0]
    ours = torch.autograd.grad((got * direction).sum(), part.circuits.angles)[0].transpose(0, 1)
    return max((got - expected).abs().max().item(), (ours - theirs).abs().max().item())


def main() -> None:
    checkout = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    found = {reps: difference(checkout, reps) for reps in (1, 2, 3, 6)}
    for reps, value in found.items():
        print(f"{reps} repetitions: {value:.2e}")
    save_official(
        "hqkan",
        part="hqkan",
        source=f"github:Jim137/qkan@{commit(checkout)}, src/qkan/solver/exact.py",
        compared=f"outputs and gradients of the angles of the layer, {D} channels, {BOTTLENECK} x {BOTTLENECK} edges, "
        f"1 to 6 repetitions, {TOKENS} tokens, float64 and complex128; measured with fast_measure=False, because its "
        "default |a| - |b| is not the expectation; the linear maps are torch's in both",
        max_abs_diff=max(found.values()),
        tolerance=1e-9,
    )


if __name__ == "__main__":
    main()
