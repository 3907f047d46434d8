"""Our channel-idle feed-forward beside RePaViT's, before and after their reparameterisation.

    python benchmarks/official/idle_ffn.py CHECKOUT        a checkout of github.com/Ackesnal/RePaViT

Their module holds two batch norms and the residual connection, which belong to the model here: the norms (with random
statistics, in evaluation mode) are folded into our weights, and the residual is added outside.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_official

from layersmith.ffn.idle_ffn import IdleFFN

#: What their file imports and the two classes compared here do not use.
UNUSED = {
    "timm.models.vision_transformer": ("VisionTransformer", "_cfg"),
    "timm.models._registry": ("register_model",),
    "timm.layers": ("DropPath", "trunc_normal_", "PatchEmbed"),
    "einops": ("rearrange", "reduce"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    checkout = parser.parse_args().checkout
    theirs = load(checkout / "repavit.py")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.double)  # their merged module takes its matrices in the default dtype
    worst = 0.0
    for width, ratio in ((12, 0.75), (16, 0.5)):
        module = theirs.Mlp(width, 4 * width, feature_norm="BatchNorm", channel_idle=True, idle_ratio=ratio)
        module = module.double().eval()
        for norm in (module.norm1, module.norm2):
            for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
                tensor.normal_()
            norm.running_var.uniform_(0.5, 2)
        x = torch.randn(3, 9, width, dtype=torch.double)
        with torch.no_grad():
            ours, whole = folded(module), module(x)
            worst = max(worst, float((x + ours(x) - whole).abs().max()))
            merged = theirs.RePaMlp(*module.reparam(), torch.nn.GELU).double()(x)
            worst = max(worst, float((x + ours.merge()(x) - merged).abs().max()))
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    print(
        save_official(
            "idle_ffn",
            "idle_ffn",
            f"github:Ackesnal/RePaViT@{commit.stdout.strip()}, repavit.py: Mlp and RePaMlp",
            "outputs in float64 (as default dtype) at widths 12 and 16, three quarters and half of the channels idle: "
            "trained and merged form, batch norms folded into our weights and the residual added outside",
            worst,
            1e-10,
        ),
        worst,
    )


def folded(module: Any) -> IdleFFN:
    """Our part with their two linear maps, each with the batch norm before it."""
    active = module.act_channels
    ours = IdleFFN(module.dim_in, active, module.dim_hidden - active).double()
    for linear, norm, target in ((module.fc1, module.norm1, ours.up), (module.fc2, module.norm2, ours.down)):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        target.weight.copy_(linear.weight * scale)
        target.bias.copy_(linear(norm.bias - norm.running_mean * scale))
    return ours


def load(path: Path) -> ModuleType:
    """Their file as a module, with empty stand-ins for what it imports and does not need here."""
    for name, attributes in UNUSED.items():
        for parent in (name.rsplit(".", depth)[0] for depth in range(name.count("."), -1, -1)):
            sys.modules.setdefault(parent, ModuleType(parent))
        for attribute in attributes:
            setattr(sys.modules[name], attribute, lambda function=None, *args, **kwargs: function)
    sys.modules["timm.models.vision_transformer"].VisionTransformer = torch.nn.Module  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("repavit", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be read as Python.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
