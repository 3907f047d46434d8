"""Is the searched mix better than the best single method used everywhere, at the same measured latency?

    python benchmarks/refit_quality.py MODEL [--budget latency=0.75] [--work out/benchmarks/MODEL] [--device cuda]
    python benchmarks/refit_quality.py NAME --finished OUT [OUT ...]   # of runs made already, one for each shape, say

Runs `refit` with `heal_baseline=True`, so that the best uniform baseline is healed on the same text as the searched
mix, and reads everything from its result. Two goals, both at the budget as measured:

    healed     the mix's KL to the original is at most half of the best uniform baseline's
    unhealed   it is below that of every uniform baseline that meets the budget

KL is in nats per token, on held-out windows on which nothing was chosen; latency is a ratio to the original, timed in
the same rounds. A mix that misses its budget misses both goals.

The mixes that the search measured unhealed at other budgets stand beside them. A baseline that cannot reach the budget
has its row without figures.

The work folder is resumable: the same command after an interruption goes on.
Writes results/refit_quality-MODEL.csv, or refit_quality-MODEL-DEVICE.csv where a device was named.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from record import save_csv

import layersmith
from layersmith.commands.options import parse_budget

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a Hub id, or pocket")
    parser.add_argument("--budget", default="latency=0.75", help="as for `layersmith refit`")
    parser.add_argument("--work", type=Path, help="folder of the run (default: out/benchmarks/MODEL)")
    parser.add_argument("--at", default="prefill=1x512", help="the shape latency is measured at")
    parser.add_argument("--methods", help="only these methods, separated by commas")
    parser.add_argument("--heal-tokens", type=int, help="tokens to heal on (default: by model size)")
    parser.add_argument("--heal-lr", type=float, help="peak rate of healing (default: by model size)")
    parser.add_argument("--reuse", type=Path, help="a run that differs in healing alone, to take its candidates from")
    parser.add_argument("--device", help="where the model is put (default: cpu)")
    parser.add_argument("--finished", type=Path, nargs="+", help="the --out of finished refits, instead of running one")
    arguments = parser.parse_args()
    name = Path(arguments.model).name
    if arguments.finished:
        results = [json.loads((out / "result.json").read_text(encoding="utf-8")) for out in arguments.finished]
    else:
        results = [run(arguments, name)]
    rows = [row | result["environment"] for result in results for row in told(result, name)]
    where = "" if arguments.device is None else f"-{arguments.device.partition(':')[0]}"
    print(save_csv(f"refit_quality-{name}{where}", rows, conditions={}))


def run(arguments: argparse.Namespace, name: str) -> Row:
    """The result of a refit as asked for."""
    return layersmith.refit(
        arguments.model,
        budget=parse_budget(arguments.budget),
        out=arguments.work or Path("out/benchmarks") / name,
        at=arguments.at,
        methods=arguments.methods.split(",") if arguments.methods else None,
        heal_tokens=arguments.heal_tokens,
        heal_lr=arguments.heal_lr,
        heal_baseline=True,
        reuse=arguments.reuse,
        device=arguments.device,
    )


def told(result: Row, name: str) -> list[Row]:
    """The rows of a result, printed, each with what all of them share."""
    rows, settings = rows_of(result), result["settings"]
    goals = goals_of(rows)
    budget = " ".join(f"{kind}={share:g}" for kind, share in settings["budget"].items())
    shared = {"model": name, "budget": budget, "at": settings["at"], "data": settings["data"]}
    shared |= {"heal_tokens": (result["heal"] or {}).get("tokens", 0), "heal_lr": settings["heal_lr"]}
    shared |= {"report_tokens": result["data"]["report_tokens"]}
    print(f"{name} at {settings['at']}, {budget}")
    for row in rows:
        if row["divergence"] is None:
            print(f"{row['variant']:<38} cannot reach the budget")
        else:
            print(f"{row['variant']:<38} KL {row['divergence']:.2e}  latency {row['latency_ratio']:.3f}x")
    for goal, held in goals.items():
        print(f"{goal}: {'nothing to compare with' if held is None else held}")
    return [{**shared, **row, **goals} for row in rows]


def rows_of(result: Row) -> list[Row]:
    """The uniform baselines, best first, then the mixes of other budgets and the searched one, healed where it was."""
    uniform = sorted(result["uniform"], key=lambda u: u["measured"]["divergence"] if u["measured"] else math.inf)
    chosen = result["chosen"]
    rows = []
    for u in uniform:
        rows.append(_row(u["label"], "uniform", False, u["measured"], u["meets_budget"]))
        if u["healed"]:
            rows.append(_row(f"{u['label']}, healed", "uniform", True, u["healed"], u["meets_budget"]))
    for point in result["front"]:
        asked = " ".join(f"{kind}={share:g}" for kind, share in point["budget"].items())
        rows.append(_row(f"searched for {asked}", "front", False, point["measured"], False))
    # The budget is judged on the final timing, made with the healed model; healing changes no shape.
    rows.append(_row("searched", "searched", False, chosen["unhealed"], chosen["meets_budget"]))
    if chosen["healed"]:
        rows.append(_row("searched, healed", "searched", True, chosen["healed"], chosen["meets_budget"]))
    return rows


def _row(variant: str, kind: str, healed: bool, measured: Row | None, meets_budget: bool) -> Row:
    columns = ("divergence", "agreement", "latency_ratio", "params", "bytes", "flops")
    facts = {column: (measured or {}).get(column) for column in columns}
    return {"variant": variant, "kind": kind, "healed": healed, **facts, "meets_budget": meets_budget}


def goals_of(rows: list[Row]) -> dict[str, bool | None]:
    """Whether the two goals hold; None where there is nothing to compare with."""

    def holds(healed: bool, share: float) -> bool | None:
        mix = next((r for r in rows if r["kind"] == "searched" and r["healed"] == healed), None)
        uniform = [
            r["divergence"] for r in rows if r["kind"] == "uniform" and r["healed"] == healed and r["meets_budget"]
        ]
        if mix is None or not uniform:
            return None
        return mix["meets_budget"] and mix["divergence"] <= share * min(uniform)

    return {"goal_healed_at_most_half": holds(True, 0.5), "goal_unhealed_below_all": holds(False, 1.0)}


if __name__ == "__main__":
    main()
