"""Our `pkm` beside the authors' layer (facebookresearch/XLM, PKM-layer.ipynb), and `weights="relu"` beside sigma-MoE's.

python benchmarks/official/pkm.py CHECKOUT_OF_XLM COMMIT
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
import torch
from torch import nn

from layersmith.ffn.pkm import PKM

D, N_KEYS, HEADS, K, D_KEY = 96, 64, 4, 32, 64


def notebook(path: Path) -> ModuleType:
    """The notebook's cells up to the layer's class, imported as a module."""
    cells = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    last = next(i for i, cell in enumerate(cells) if "class HashingMemory" in cell)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pkm_layer.py"
        file.write_text("\n".join(cells[: last + 1]))
        spec = importlib.util.spec_from_file_location("pkm_layer", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def main() -> None:
    checkout, commit = Path(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    params = SimpleNamespace(
        sparse=False, k_dim=D_KEY, heads=HEADS, knn=K, n_keys=N_KEYS, query_batchnorm=False,
        input_dropout=0, query_dropout=0, value_dropout=0,
    )  # fmt: skip
    theirs = notebook(checkout / "PKM-layer.ipynb").HashingMemory(D, D, params).eval()
    ours = PKM(D, N_KEYS, HEADS, K, D_KEY, query_norm=False).eval()
    with torch.no_grad():
        ours.search.query.load_state_dict(theirs.query_proj[0].state_dict())
        ours.search.keys.copy_(theirs.keys)
        ours.values.copy_(theirs.values.weight)
    x = torch.randn(3, 40, D)
    pairs = {"outputs": (ours(x), theirs(x))}
    for module in (ours, theirs):
        module.zero_grad()
        (module(x) * torch.linspace(-1, 1, D)).sum().backward()
    pairs["gradient of the values"] = ours.values.grad, theirs.values.weight.grad
    pairs["gradient of the keys"] = ours.search.keys.grad, theirs.keys.grad
    pairs["gradient of the query"] = ours.search.query.weight.grad, theirs.query_proj[0].weight.grad
    worst = 0.0
    for name, (a, b) in pairs.items():
        assert isinstance(a, torch.Tensor)
        assert isinstance(b, torch.Tensor)
        difference = (a - b).abs().max().item()
        print(f"{name}: {difference:.2e} of {b.abs().max().item():.2e}")
        worst = max(worst, difference)
    assert isinstance(theirs.query_proj, nn.Sequential)
    record.save_official(
        "pkm",
        "pkm",
        f"github:facebookresearch/XLM@{commit}, PKM-layer.ipynb (the authors')",
        f"outputs and gradients of values, keys and query, float32, d {D}, {N_KEYS}^2 slots, {HEADS} heads, k {K}; "
        "query batch norm off, query_norm=False",
        worst,
        1e-4,
    )


if __name__ == "__main__":
    main()
