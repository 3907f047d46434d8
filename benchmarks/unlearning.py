"""What does each update that forgets cost on pocket, beside retraining without what is forgotten?

    python benchmarks/unlearning.py [--seeds 0,1] [--steps 150] [--tokens 8192]

`explain --with unlearning`, once a seed (of the facts and of everything drawn): one row an update with the accuracy on
what was to go and on what was to stay, the loss on held-out text, the divergence of the answers to what was to go from
those after retraining, and the two verdicts. Writes results/unlearning-pocket.csv. Two minutes a seed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import record
import torch

import layersmith


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--tokens", type=int, default=8192)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in map(int, arguments.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            settings = {"seed": seed, "steps": arguments.steps}
            asked = {
                "tool": "unlearning",
                "settings": settings,
                "tokens": arguments.tokens,
                "out": Path(folder) / "out",
            }
            found = layersmith.explain("pocket", **asked)["survey"]
        trained = " ".join(found["trained_alone"])
        for name, row in found["rows"].items():
            rows.append({"seed": seed, "update": name, **row, "traced_to": trained})
            print(rows[-1])
    record.save_csv("unlearning-pocket", rows)


if __name__ == "__main__":
    main()
