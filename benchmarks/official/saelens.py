"""Are our dictionaries and those of SAELens the same thing, in both directions?

    python3 -m venv theirs && theirs/bin/pip install --only-binary :all: sae-lens
    python benchmarks/official/saelens.py theirs/bin/python

sae-lens holds transformers below the version used here, so it runs in an environment of its own. Every form that it has
is exported with random weights and scales, loaded and run by sae-lens, saved by it, and imported again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import save_official

from layersmith.explaining.dictionaries.saelens import ARCHITECTURES, export_saelens, import_saelens
from layersmith.ffn.sparse_dictionary import SparseDictionary

D, FEATURES, K, TOKENS = 64, 512, 8, 500
TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("python", help="of an environment with sae-lens")
    python = parser.parse_args().python
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ours = {}
        for activation, centred, skip in ARCHITECTURES:
            name = f"{activation}{'-centred' * centred}{'-skip' * skip}"
            made, x = dictionary(activation, centred, skip), torch.randn(TOKENS, D)
            export_saelens(made, root / name, {"model_name": "none", "hook_name": "blocks.0.hook_mlp_out"})
            save_file({"x": x}, root / f"{name}.safetensors")
            ours[name] = (x, made(x))
        script = Path(__file__).with_name("saelens_theirs.py")
        done = subprocess.run([python, script, root], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        version = done.stdout.split()[-1]
        worst = 0.0
        for name, (x, y) in ours.items():
            theirs = load_file(root / f"{name}-again.safetensors")["y"]
            back = import_saelens(root / f"{name}-again")[0](x)
            apart = [float((found - y).abs().max() / y.abs().max()) for found in (theirs, back)]
            print(f"{name}: sae-lens {version} differs by {apart[0]:.1e}, what comes back by {apart[1]:.1e} (relative)")
            worst = max(worst, *apart)
    save_official(
        "saelens",
        part=SparseDictionary.name,
        source=f"sae-lens=={version}, SAE.load_from_disk and save_model",
        compared=(
            f"outputs of {len(ours)} dictionaries (every activation; autoencoders, transcoders, a skip transcoder) of "
            f"{FEATURES} features at width {D}, exported, run and saved by sae-lens, and imported; relative to the "
            f"largest output"
        ),
        max_abs_diff=worst,
        tolerance=TOLERANCE,
    )


def dictionary(activation: str, centred: bool, skip: bool) -> SparseDictionary:
    made = SparseDictionary(D, FEATURES, K, activation, skip=skip, centred=centred)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if activation in ("jumprelu", "batch_topk"):
            made.threshold.copy_(0.5 * torch.rand(made.threshold.shape))
        made.input_scale.fill_(8.0)
        made.output_scale.fill_(8.0 if centred else 0.5)
    return made.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
