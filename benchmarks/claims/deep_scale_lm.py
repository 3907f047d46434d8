"""P142: DeepScaleLM conserves unit output and gradient moments through models of hundreds of layers."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.scheme.deep_scale_lm import DeepScaleLM
from layersmith.scheme.norm_place import NormPlace
from layersmith.scheme.shared.flow import flow, plain_model

LAYERS, WIDTH, TOKENS, SEEDS = 200, 64, 32, (0, 1, 2)
SCHEMES = {"deep_scale_lm": DeepScaleLM(1 / 256, tokens=TOKENS), "pre_ln_xavier": NormPlace("pre")}

torch.set_num_threads(1)
rows, span = [], {}
for name, scheme in SCHEMES.items():
    forward, backward = [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = plain_model(LAYERS, {}, d_model=WIDTH, vocab=256)
        scheme.apply(model)
        found = flow(model, torch.randint(256, (4, TOKENS)))
        variance = [a**2 for a in found.activations]
        gradient = [(g / found.gradients[-1]) ** 2 for g in found.gradients]
        forward += variance
        backward += gradient
        rows += [
            {"scheme": name, "seed": seed, "layer": i, "variance": variance[i], "gradient_variance": gradient[i]}
            for i in range(0, LAYERS + 1, 20)
        ]
    span[name] = (min(forward), max(forward), min(backward), max(backward))
low, high, grad_low, grad_high = span["deep_scale_lm"]
inside = low >= 0.5 and high <= 2, grad_low >= 0.5 and grad_high <= 2
plain = span["pre_ln_xavier"]
save_claim(
    "deep_scale_lm",
    "deep_scale_lm",
    "P142",
    "Output and gradient variances stay at one through a model of hundreds of layers",
    "held" if all(inside) else "partly" if any(inside) else "did not hold",
    f"At {LAYERS} layers of width {WIDTH}, {TOKENS} random tokens, {len(SEEDS)} seeds, over all layers: variance "
    f"{low:.2f} to {high:.2f}, gradient variance relative to the last layer's {grad_low:.2f} to {grad_high:.2f}; plain "
    f"Pre-LN with Xavier weights: {plain[0]:.2f} to {plain[1]:.0f} and {plain[2]:.2f} to {plain[3]:.0f}.",
    rows,
)
print(span)
