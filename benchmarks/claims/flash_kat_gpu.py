"""FlashKAT (P046) on a GPU: how long a Kolmogorov-Arnold Transformer trains beside a ViT, by which kernel.

    git clone https://github.com/OSU-STARLAB/FlashKAT
    python benchmarks/claims/flash_kat_gpu.py FlashKAT [--batch 128]        a CUDA device

Transformers' ViTs of three sizes get GR-KAN feed-forwards in every block. Training steps of one batch of 224x224
pictures (forward, backward, AdamW; bfloat16 autocast) are timed beside the ViT's own, with the activation computed by
our kernel, by FlashKAT's and by KAT's (both released with the paper, used from the checkout), and by the plain formula.
Also: the coefficients' gradients of one activation against float64, by our kernel and by KAT's atomic additions.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import apply
from layersmith.anatomy.swap import replacement_for
from layersmith.ffn.gr_kan import GRKAN
from layersmith.ffn.shared.rational import Rational
from layersmith.kernels import gpu

SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
ROUNDS, SEEDS = 3, (0, 1, 2)
CLAIM = (
    "KAT trains 123x slower than a ViT; with FlashKAT's backward pass it trains up to 86.5x faster, with smaller "
    "rounding errors in the coefficients' gradients"
)


class Theirs(nn.Module):
    """One of the checkout's activations with our coefficients; (B, T, C) -> (B, T, C)."""

    def __init__(self, ours: Rational, apply: Callable[..., Tensor], tells_groups: bool):
        super().__init__()
        self.a, self.b = nn.Parameter(ours.a.detach().clone()), nn.Parameter(ours.b.detach().clone())
        self.apply_, self.extra = apply, (len(ours.b),) if tells_groups else ()

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_(x, self.a.repeat(len(self.b), 1), self.b, *self.extra)


def vit(size: str, ffn: Callable[[int, int], nn.Module] | None) -> nn.Module:
    """A ViT, all of its feed-forwards replaced by `ffn(d_model, d_hidden)`."""
    torch.manual_seed(0)
    width, heads = SIZES[size]
    config = ViTConfig(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads, num_hidden_layers=12, num_labels=1000
    )
    model = ViTForImageClassification(config)
    if ffn is not None:
        for site in find_sites(model).of_kind("ffn"):
            apply(model, replacement_for(model, site, ffn(width, 4 * width)))
    return model.cuda().train()


def with_activation(make: Callable[[Rational], nn.Module]) -> Callable[[int, int], nn.Module]:
    def ffn(d_model: int, d_hidden: int) -> nn.Module:
        part = GRKAN(d_model, d_hidden)
        part.act_in, part.act_hidden = make(part.act_in), make(part.act_hidden)
        return part

    return ffn


def training_step(model: nn.Module, batch: int) -> Callable[[], None]:
    pictures = torch.randn(batch, 3, 224, 224, device="cuda")
    labels = torch.randint(1000, (batch,), device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(pixel_values=pictures, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def plain():  # type: ignore[no-untyped-def]
    """The plain formula is computed inside."""
    return mock.patch.object(gpu, "loaded", return_value=False)


def compared(size: str, batch: int, kat: Callable[..., Tensor], flash: Callable[..., Tensor]) -> dict[str, object]:
    """Seconds of a training step, every way in turn, ROUNDS times; the first round warms up and does not count."""
    steps = {
        "vit": training_step(vit(size, None), batch),
        "ours": training_step(vit(size, GRKAN), batch),
        "flash_kat": training_step(vit(size, with_activation(lambda r: Theirs(r, flash, False))), batch),
        "kat": training_step(vit(size, with_activation(lambda r: Theirs(r, kat, True))), batch),
    }
    with plain():
        formula = training_step(vit(size, GRKAN), batch)
    taken: dict[str, list[float]] = {name: [] for name in (*steps, "formula")}
    for _ in range(ROUNDS + 1):
        for name, step in steps.items():
            taken[name].append(seconds(step))
        with plain():
            taken["formula"].append(seconds(formula))
    times = {name: statistics.median(values[1:]) for name, values in taken.items()}
    row: dict[str, object] = {"size": size, "batch": batch, "rounds": ROUNDS}
    row |= {f"{name}_ms": value * 1e3 for name, value in times.items()}
    return row | {f"{name}_over_vit": value / times["vit"] for name, value in times.items() if name != "vit"}


def gradient_errors(seed: int, kat: Callable[..., Tensor]) -> dict[str, object]:
    """Relative errors in float32 of the gradients of a and b, where both denominators agree (x and b not negative)."""
    torch.manual_seed(seed)
    part = Rational(3072, init="gelu").cuda()
    nn.init.uniform_(part.b, 0.05, 0.5)
    x, grad = 3 * torch.rand(64, 197, 3072, device="cuda"), torch.rand(64, 197, 3072, device="cuda")
    theirs = Theirs(part, kat, True).cuda()
    wide = Rational(3072, init="gelu").cuda().double()
    wide.load_state_dict(part.state_dict())
    found = {
        name: torch.autograd.grad(module(x), (module.a, module.b), grad)
        for name, module in (("ours", part), ("kat", theirs))
    }
    exact = [torch.zeros_like(wide.a), torch.zeros_like(wide.b)]
    for rows, out in zip(x.split(8), grad.split(8), strict=True):  # the plain formula needs much memory in float64
        pieces = torch.autograd.grad(wide(rows.double()), (wide.a, wide.b), out.double())
        exact = [total + piece for total, piece in zip(exact, pieces, strict=True)]
    return {"what": "gradients of a and b against float64", "seed": seed} | {
        f"{name}_error_{which}": ((got.double() - right).norm() / right.norm()).item()
        for name, tensors in found.items()
        for which, got, right in zip("ab", tensors, exact, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.checkout / "rational_kat" / "kernels"))
    from flash_rational_triton import FlashRationalTriton1DGroup
    from rational_triton import RationalTriton1DGroup

    kat, flash = RationalTriton1DGroup.apply, FlashRationalTriton1DGroup.apply
    errors = [gradient_errors(seed, kat) for seed in SEEDS]
    print(errors, flush=True)
    steps = []
    for size in SIZES:
        steps.append(compared(size, arguments.batch, kat, flash))
        print(steps[-1], flush=True)
    worst = {name: max(max(e[f"{name}_error_a"], e[f"{name}_error_b"]) for e in errors) for name in ("ours", "kat")}
    slower = max(row["kat_over_vit"] for row in steps)
    faster = max(row["kat_ms"] / row["ours_ms"] for row in steps)
    parts = [slower >= 100, faster >= 80, worst["ours"] < worst["kat"]]
    timed = "; ".join(
        f"ViT-{row['size']} {row['vit_ms']:.1f} ms, GR-KAN by KAT's kernel {row['kat_over_vit']:.1f}x that, by "
        f"FlashKAT's {row['flash_kat_over_vit']:.2f}x, by ours {row['ours_over_vit']:.2f}x, by the plain formula "
        f"{row['formula_over_vit']:.2f}x"
        for row in steps
    )
    measured = (
        f"On one {torch.cuda.get_device_name()}, a training step of {arguments.batch} pictures in bfloat16 autocast: "
        f"{timed}. Our kernel trains up to {faster:.1f}x as fast as KAT's. Largest relative error of the coefficients' "
        f"gradients over {len(SEEDS)} seeds: {worst['kat']:.1e} by KAT's kernel, {worst['ours']:.1e} by ours."
    )
    verdict = "held" if all(parts) else "partly" if any(parts) else "did not hold"
    print(save_claim("flash_kat_gpu", "gr_kan", "P046", CLAIM, verdict, measured, [*steps, *errors], "cuda"), verdict)


if __name__ == "__main__":
    main()
