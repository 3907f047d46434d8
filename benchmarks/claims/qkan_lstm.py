"""Do circuits in the gates make an LSTM do with fewer parameters? Two series that formulas give, as in the paper.

Paper: "QKAN-LSTM: Quantum-inspired Kolmogorov-Arnold Long Short-term Memory", arXiv 2512.05049: the accuracy of an
LSTM with 79 % fewer parameters. A damped oscillation and a Bessel function are to be foretold one step ahead, from all
values before; both networks train on the first two thirds and are judged on the rest. Neither is tuned more than the
other.

    python benchmarks/claims/qkan_lstm.py
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.mixer.qkan_lstm import QKANLSTM

POINTS, STEPS, SEEDS = 120, 200, 3
WIDTHS = {"qkan_lstm": (2, 4), "lstm": (2, 4, 8, 12)}


class LSTM(nn.Module):
    """torch's, with a map to one number, called as ours is."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.out(self.lstm(x)[0]), None


def series() -> dict[str, Tensor]:
    time = torch.linspace(0, 30, POINTS, device="cpu")
    angle = torch.linspace(0, torch.pi, 401, device="cpu")  # J_2(t) = mean over angles of cos(2 a - t sin a)
    bessel = (2 * angle - time[:, None] * angle.sin()).cos().mean(-1)
    return {"damped oscillation": (-0.1 * time).exp() * (1.5 * time).cos(), "Bessel J2": 2 * bessel}


def trained(make: Callable[[], nn.Module], values: Tensor, seed: int) -> tuple[int, float]:
    """Parameters, and the mean squared error of one step ahead on the last third."""
    torch.manual_seed(seed)
    model, until = make(), 2 * POINTS // 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / STEPS)
        optimizer.zero_grad()
        found = model(values[None, : until - 1, None])[0][0, :, 0]
        (found - values[1:until]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = model(values[None, :-1, None])[0][0, until - 1 :, 0]
    return sum(p.numel() for p in model.parameters()), float((found - values[until:]).square().mean())


def maker(name: str, width: int) -> Callable[[], nn.Module]:
    return (lambda: QKANLSTM(1, width)) if name == "qkan_lstm" else (lambda: LSTM(width))


def main() -> None:
    rows: list[dict[str, Any]] = []
    for what, values in series().items():
        for name, widths in WIDTHS.items():
            for width in widths:
                runs = [trained(maker(name, width), values, seed) for seed in range(SEEDS)]
                error = statistics.median(error for _, error in runs)
                rows.append({"series": what, "network": name, "width": width, "parameters": runs[0][0], "error": error})
                print(rows[-1], flush=True)
    told, saved = [], []
    for what in series():
        of = [row for row in rows if row["series"] == what]
        ours = min((row for row in of if row["network"] == "qkan_lstm"), key=lambda row: row["error"])
        as_good = [row for row in of if row["network"] == "lstm" and row["error"] <= ours["error"]]
        least = min((row["parameters"] for row in as_good), default=None)
        saved.append(1 - ours["parameters"] / least if least else None)
        beside = f"needs {least}" if least else f"does not reach it with {max(r['parameters'] for r in of)}"
        told.append(f"{what}: error {ours['error']:.1e} with {ours['parameters']} parameters, an LSTM {beside}")
    known = [share for share in saved if share is not None]
    held = all(share is None or share >= 0.5 for share in saved)
    save_claim(
        "qkan_lstm",
        "qkan_lstm",
        "qkan-lstm",
        "The accuracy of an LSTM with 79 % fewer parameters",
        "held"
        if held
        else "partly"
        if any(share > 0 for share in known) or len(known) < len(saved)
        else "did not hold",
        f"One step ahead on the last third of {POINTS} values, {STEPS} steps, median of {SEEDS} seeds. "
        + "; ".join(told)
        + ".",
        rows,
    )


if __name__ == "__main__":
    main()
