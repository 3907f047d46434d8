"""Does a recurrent network that moves with its input foretell motion at speeds and lengths it was not trained on?

Paper: Keller 2025, "Flow Equivariant Recurrent Neural Networks": it learns faster, and generalises to velocities and
lengths that it has not seen, where a network without flows does not. Random bumps on a ring of 16 places move by a
constant number of places at every step; the next signal is to be foretold. Trained with velocities -1, 0 and 1 on 10
steps; judged on velocities 2 and 3, and on 40 steps. Both networks have the same weights to learn.

    python benchmarks/claims/flow_rnn.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.mixer.flow_rnn import FlowRNN

PLACES, HIDDEN, STEPS, BATCH, SEEDS = 16, 16, 400, 32, 3
KERNEL, REACH = 5, 3


def moving(velocities: list[int], steps: int, draw: torch.Generator) -> Tensor:
    """(BATCH, steps + 1, PLACES): sums of three bumps, on the move."""
    place = torch.arange(PLACES)
    centre = torch.randint(PLACES, (BATCH, 3, 1), generator=draw)
    apart = (place - centre).remainder(PLACES)
    apart = torch.minimum(apart, PLACES - apart)
    height = 0.5 + torch.rand(BATCH, 3, 1, generator=draw)
    signal = (height * (-(apart**2) / 2.0).exp()).sum(1)
    speed = torch.tensor(velocities)[torch.randint(len(velocities), (BATCH, 1, 1), generator=draw)]
    source = (place - speed * torch.arange(steps + 1)[:, None]).remainder(PLACES)
    return signal[:, None].expand(-1, steps + 1, -1).gather(2, source)


def error(model: FlowRNN, signals: Tensor) -> Tensor:
    """Mean squared error, relative to the signal's variance, of all steps from the fourth on."""
    found, _ = model(signals[:, :-1])
    return (found[:, 3:] - signals[:, 4:]).square().mean() / signals.var()


def trained(flows: bool, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = FlowRNN(PLACES, HIDDEN, velocities=REACH if flows else 0, kernel=KERNEL)
    optimizer, draw = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / STEPS)
        optimizer.zero_grad()
        error(model, moving([-1, 0, 1], 10, draw)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    test = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        return {
            "flows": flows,
            "seed": seed,
            "parameters": sum(p.numel() for p in model.parameters()),
            "seen": float(error(model, moving([-1, 0, 1], 10, test))),
            "longer": float(error(model, moving([-1, 0, 1], 40, test))),
            "faster": float(error(model, moving([-3, -2, 2, 3], 10, test))),
        }


def main() -> None:
    rows = []
    for seed in range(SEEDS):
        for flows in (False, True):
            rows.append(trained(flows, seed))
            print(rows[-1], flush=True)

    def mean(flows: bool, what: str) -> float:
        return sum(row[what] for row in rows if row["flows"] == flows) / SEEDS

    better = {what: all(
        with_flows[what] < plain[what] for plain, with_flows in zip(rows[::2], rows[1::2], strict=True)
    ) for what in ("seen", "longer", "faster")}  # fmt: skip
    general = better["longer"] and better["faster"] and mean(True, "faster") < 0.5 * mean(False, "faster")
    told = "; ".join(
        f"{what} {mean(True, what):.3f} with flows, {mean(False, what):.3f} without"
        for what in ("seen", "longer", "faster")
    )
    save_claim(
        "flow_rnn",
        "flow_rnn",
        "flow-equivariant-recurrent-neural-networks",
        "Generalises to velocities and lengths that were not trained on, where a network without flows does not",
        "held" if general else "partly" if better["longer"] or better["faster"] else "did not hold",
        f"Next step of moving bumps on {PLACES} places, {rows[0]['parameters']} parameters, {STEPS} steps of training "
        f"on velocities up to 1 and 10 steps; squared error relative to the variance, mean of {SEEDS} seeds: {told} "
        f"(longer: 40 steps; faster: velocities 2 and 3).",
        rows,
    )


if __name__ == "__main__":
    main()
