"""Which of transformers' architectures refit and reload exactly, and which are refused, with the reason.

    python benchmarks/architecture_sweep.py [NAME ...]

Every tiny model of `tests/architectures` goes through a whole default refit in this process; its `sweep` module
says what counts as what. Without names, writes results/architectures.csv, from which the page of the docs is made.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from record import save_csv
from tests.architectures.every import SWEPT
from tests.architectures.sweep import sweep


def main() -> None:
    names = sys.argv[1:] or list(SWEPT)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = sweep([SWEPT[name] for name in names], Path(folder))
    if not sys.argv[1:]:
        save_csv("architectures", [outcome.to_json() for outcome in outcomes])


if __name__ == "__main__":
    main()
