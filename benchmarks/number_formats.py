"""What do the number formats lose, and at how many bytes?

    python benchmarks/number_formats.py [MODEL]

Each format that `refit` has, with each of its settings, at all feed-forwards and attentions of a model at once, none of
them healed: the divergence of the whole model on held-out text, and the share of those sublayers' bytes that is left.
Writes results/number_formats-MODEL.csv.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from merge_or_prune import moved
from record import save_csv

import layersmith
from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.edit import Replacement
from layersmith.contract import stored_bytes
from layersmith.measuring.environment import environment
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Sizes, prepare
from layersmith.runs.workspace import Workspace

EIGHT_BITS = ("int8_dynamic", "int8_static", "int8_weight")
FORMATS = ("bf16", *EIGHT_BITS, "block_shift", "int4_weight", "fp4", "moqe", "rtn", "gptq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a Hub id, or pocket")
    arguments = parser.parse_args()
    model, tokenizer = layersmith.load(arguments.model)
    model.eval().requires_grad_(False)
    batches = prepare(model, tokenizer, "stdlib", Sizes(calibration=16, search=2, report=4, heal=0), 0)
    anatomy = find_sites(model)
    made: dict[tuple[str, str], Replacement] = {}
    replaced: dict[tuple[str, str], int] = {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "run", {})
        activations = Activations(Replay(model, anatomy), anatomy, batches, workspace)
        activations.calibrate()
        for site in anatomy.sites:
            if site.kind not in ("ffn", "mixer"):
                continue
            view = activations.view(site)
            for name in FORMATS:
                method = methods.get(name)
                if site.kind not in method.kinds or method.unsupported_reason(view) is not None:
                    continue
                for settings in method.options(view):
                    key = name, ", ".join(f"{k} {v}" for k, v in settings.items())
                    made.setdefault(key, []).extend(method.build(view, settings))
                    parts = [model.get_submodule(path) for path in site.modules]
                    replaced[key] = replaced.get(key, 0) + sum(map(stored_bytes, parts))
            activations.forget()
        workspace.close()
    rows: list[dict[str, Any]] = []
    for (name, settings), replacement in made.items():
        with torch.no_grad():
            left = sum(stored_bytes(part) for _, part in replacement) / replaced[name, settings]
        distance = moved(model, replacement, batches.report)
        rows.append({"method": name, "settings": settings, "bytes": left, "divergence": distance})
        print(f"{name:<14} {settings:<20} {left:.3f} of the bytes  {distance:.5f}", flush=True)
    print(save_csv(f"number_formats-{Path(arguments.model).name}", rows, environment()))


if __name__ == "__main__":
    main()
