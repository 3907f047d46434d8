"""P321: on the edge of chaos 1 - c_l falls as 1/l^2 for ReLU and as 1/l for smooth activations, and variances stay."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.ffn.shared.activations import activation
from layersmith.scheme.edge_of_chaos import EdgeOfChaos, edge, moments
from layersmith.scheme.shared.edits import ffn_maps
from layersmith.scheme.shared.flow import flow, plain_model

NODES, LAYERS = 80, 3000
POINTS = (("relu", 0.0, 2.0), ("tanh", 0.3, 1.0), ("silu", 0.2, 1.0), ("gelu", 0.1, 1.0))


def correlations(act: str, bias: float) -> np.ndarray:
    """1 - c_l of two inputs of correlation 0.1, by the recursion of infinitely wide layers and 2-D quadrature."""
    weight, q = edge(act, bias)
    z, w = np.polynomial.hermite_e.hermegauss(NODES)
    w = w / w.sum()
    if act == "relu":  # a kink costs quadrature its accuracy; the integral is known

        def step(c: float) -> float:
            return c + (math.sqrt(1 - c * c) - c * math.acos(c)) / math.pi
    else:
        phi = activation(act)
        first = phi(torch.tensor(math.sqrt(q) * z)).numpy()
        norm = float((w * first**2).sum())

        def step(c: float) -> float:
            mixed = phi(torch.tensor(math.sqrt(q) * (c * z[:, None] + math.sqrt(1 - c * c) * z[None]))).numpy()
            return (bias**2 + weight**2 * float(w @ (first[:, None] * mixed) @ w)) / (bias**2 + weight**2 * norm)

    c, found = 0.1, []
    for _ in range(LAYERS):
        c = min(step(c), 1.0)
        found.append(1 - c)
    return np.array(found)


def chain(gain: float) -> tuple[float, float]:
    """RMS of the stream after 100 feed-forwards over that before, and of the gradient the other way, tanh."""
    torch.manual_seed(0)
    changes = {**EdgeOfChaos.tested_on, "ffn": {"name": "mlp", "d_hidden": 512, "act": "tanh"}}
    model = plain_model(100, changes, d_model=128)
    EdgeOfChaos(0.3).apply(model)
    with torch.no_grad():
        for index in range(100):
            ffn_maps(model, index)["down"].weight.mul_(gain)
    found = flow(model, torch.randint(64, (4, 16)))
    return found.activations[-1] / found.activations[0], found.gradients[0] / found.gradients[-1]


torch.set_num_threads(1)
rows, exponents, layers = [], {}, np.arange(1, LAYERS + 1)
for act, bias, predicted in POINTS:
    gap = correlations(act, bias)
    tail = slice(LAYERS // 3, LAYERS)
    exponents[act] = -float(np.polyfit(np.log(layers[tail]), np.log(gap[tail]), 1)[0])
    weight, q = edge(act, bias)
    _, slope, bend = moments(act, q)
    constant = 9 * math.pi**2 / 2 if act == "relu" else 2 * slope / (q * bend)
    rows.append({"act": act, "bias": bias, "weight": weight, "q": q, "exponent": exponents[act],
                 "predicted": predicted, "constant": float(gap[-1] * LAYERS**predicted),
                 "predicted_constant": constant})  # fmt: skip
flat = {gain: chain(gain) for gain in (0.8, 1.0, 1.25)}
rows += [{"gain": g, "activation": a, "gradient": b} for g, (a, b) in flat.items()]
rates = all(abs(exponents[act] - predicted) < 0.1 for act, _, predicted in POINTS)
steady = all(0.3 < v < 3 for v in flat[1.0]) and not all(0.3 < v < 3 for v in (flat[0.8][1], flat[1.25][1]))
save_claim(
    "edge_of_chaos",
    "edge_of_chaos",
    "P321",
    "On the edge of chaos 1 - c_l decays as l^-2 for ReLU and l^-1 for smooth activations; sizes are kept with depth",
    "held" if rates and steady else "partly" if rates or steady else "did not hold",
    "Exponents fitted over layers 1000 to 3000 of the infinite-width recursion: "
    + ", ".join(f"{act} {exponents[act]:.2f}" for act, _, _ in POINTS)
    + f"; 100 tanh feed-forwards of width 128 on the edge keep activations at {flat[1.0][0]:.2f}x and gradients at "
    f"{flat[1.0][1]:.2g}x; with weights 0.8 and 1.25 times as large gradients end at {flat[0.8][1]:.1g}x and "
    f"{flat[1.25][1]:.1g}x (1 seed).",
    rows,
)
print(exponents, flat, rows[:4])
