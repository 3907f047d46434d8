"""Draw the map of the embedded model, then write a tool of one's own and judge it in a sublayer's place."""

import sys
from pathlib import Path

import torch

import layersmith
from layersmith.explaining.tool import Explanation, Tool

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/example-explain")
model, tokenizer = layersmith.load("pocket")


class Quadratic(Tool):
    """Explains a feed-forward by 32 of its input's channels and their squares: an affine map of 64 numbers."""

    name, summary, kinds = "quadratic", "A few channels and their squares.", ("ffn",)

    def explain(self, observed, settings, tell):
        strongest = observed.inputs.var(0).topk(32).indices
        kept = observed.inputs[:, strongest]
        design = torch.cat([kept, kept.square(), torch.ones(len(kept), 1)], dim=1)
        module = Squares(strongest, torch.linalg.lstsq(design.double(), observed.outputs.double()).solution.float())
        return Explanation(module, {"channels": 32})


class Squares(torch.nn.Module):
    def __init__(self, channels, weight):
        super().__init__()
        self.channels, self.weight = channels, torch.nn.Parameter(weight)

    def forward(self, x):
        kept = x[..., self.channels]
        return kept @ self.weight[:32] + kept.square() @ self.weight[32:64] + self.weight[64]


drawn = layersmith.explain(model, tokenizer=tokenizer, tokens=2048, out=out / "map", progress=False)
fragile = {site: found["fragility"] for site, found in drawn["survey"]["sites"].items() if "fragility" in found}
print("most fragile:", max(fragile, key=fragile.get), "least:", min(fragile, key=fragile.get))

judged = layersmith.explain(
    model,
    tool="__main__:Quadratic",
    sites="layers.3.ffn",
    tokenizer=tokenizer,
    tokens=2048,
    out=out / "quadratic",
    progress=False,
)
for name, row in judged["sites"][0]["table"].items():
    print(f"{name:12} divergence {row['divergence']:.4f}  loss recovered {row['loss_recovered']:.0%}")
print(*judged["sites"][0]["verdicts"], sep="\n")
print(f"{judged.folder}/report.html")
