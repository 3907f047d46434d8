"""For saelens.py, run by the Python of an environment with sae-lens: load every folder, compute, save it again.

    python saelens_theirs.py FOLDER     FOLDER/NAME is a dictionary, FOLDER/NAME.safetensors holds its inputs "x"

Writes FOLDER/NAME-again, the dictionary as sae-lens saves it, and FOLDER/NAME-again.safetensors with its outputs "y".
Prints the version of sae-lens. Nothing here imports layersmith.
"""

import json
import sys
from pathlib import Path

import torch
from sae_lens import __version__
from sae_lens.registry import get_sae_class
from safetensors.torch import load_file, save_file


def main(root: Path) -> None:
    for folder in [path for path in sorted(root.iterdir()) if path.is_dir()]:
        x = load_file(root / f"{folder.name}.safetensors")["x"]
        architecture = json.loads((folder / "cfg.json").read_text())["architecture"]
        theirs = get_sae_class(architecture)[0].load_from_disk(folder)
        with torch.no_grad():
            y = theirs(x)
        y = y[0] if isinstance(y, tuple) else y
        theirs.save_model(root / f"{folder.name}-again")
        save_file({"y": y.contiguous()}, root / f"{folder.name}-again.safetensors")
    print(__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
