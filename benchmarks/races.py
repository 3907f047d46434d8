"""Re-run the comparisons of papers that `races/` holds: did the claim hold at the size of a minute on one thread?

    python benchmarks/races.py [NAME ...] [--workers N] [--out FOLDER]

NAME is a file of `races/` without its ending; all of them without one. Each race is run as `layersmith race` runs it,
into FOLDER/NAME (default out/races), so an interrupted one goes on. What is published of it goes to
`benchmarks/races/NAME.json` and `NAME.csv`: scores of all seeds, intervals, costs and conditions, without curves, and
without seconds, because other work may run beside it; nothing else in them depends on time. `docs/races.md` is made
from these files.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import layersmith
from layersmith.errors import UserError, suggest
from layersmith.racing.options import RaceConfig, from_file

ROOT = Path(__file__).resolve().parents[1]
RACES, PUBLISHED = ROOT / "races", Path(__file__).resolve().parent / "races"
#: Of an entrant: what is published.
KEPT = (
    *("name", "verdict", "mean", "difference", "interval", "longer", "params", "flops", "state_bytes", "steps"),
    *("optimizer", "task", "lr", "weight_decay", "on_edge"),
)
COLUMNS = (
    *("entrant", "verdict", "mean", "behind", "low", "high", "scores", "longer", "diverged"),
    *("params", "flops", "state_bytes", "steps", "d_model", "optimizer", "lr", "weight_decay", "on_edge"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/races"))
    arguments = parser.parse_args()
    known = sorted(path.stem for path in RACES.glob("*.yaml"))
    for name in arguments.names:
        if name not in known:
            raise UserError(f"There is no race {name!r}. {suggest(name, known)}")
    PUBLISHED.mkdir(exist_ok=True)
    for name in arguments.names or known:
        config = from_file(RACES / f"{name}.yaml", RaceConfig())
        config = replace(config, out=arguments.out / name, workers=arguments.workers)
        result = layersmith.race(**vars(config)).to_json()
        publish(name, result)
        print(name, result["expected"]["word"], f"{sum(result['timings'].values()):.0f} s", flush=True)


def publish(name: str, result: dict[str, Any]) -> None:
    """Write what is published of a race."""
    found = published(result)
    (PUBLISHED / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with (PUBLISHED / f"{name}.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in found["entrants"]:
            low, high = row["interval"] or (None, None)
            more = {
                "entrant": row["name"],
                "behind": row["difference"],
                "low": low,
                "high": high,
                "scores": " ".join(f"{score:.6g}" for score in row["scores"] if score is not None),
                "optimizer": row["optimizer"]["name"],
            }
            writer.writerow({key: row[key] for key in COLUMNS if key in row} | more)
        for yardstick, score in found["yardsticks"].items():
            writer.writerow({"entrant": yardstick, "verdict": "yardstick", "mean": score})


def published(result: dict[str, Any]) -> dict[str, Any]:
    """The result without curves, points of tuning and seconds."""
    entrants = [
        {
            **{key: row[key] for key in KEPT},
            "d_model": row["spec"]["d_model"],
            "scores": [run["score"] for run in row["runs"]],
            "scores_on_longer": [run["longer"] for run in row["runs"]],
            "diverged": sum(run["diverged"] is not None for run in row["runs"]),
        }
        for row in result["entrants"]
    ]
    top = ("schema", "claim", "papers", "expected", "task", "budget", "settings", "yardsticks", "environment")
    return {**{key: result[key] for key in top}, "entrants": entrants}


if __name__ == "__main__":
    main()
