"""Make the embedded model smaller under a budget. Small settings, so that it takes a minute: not a recommendation."""

import sys

import layersmith

result = layersmith.refit(
    "pocket",
    budget={"params": 0.9},
    out=sys.argv[1] if len(sys.argv) > 1 else "out/example",
    methods=["width", "drop"],
    at="prefill=1x64",
    effort=0.05,
    heal_tokens=0,
)
print("budget met:", result.meets_budget)
print(f"parameters: {result.original['params']:,} -> {result.refitted['params']:,}")
print(f"divergence from the original: {result.refitted['divergence']:.3f} nats per token")
print("changed:", {site: chosen for site, chosen in result.choice.items() if chosen != "keep"})
print(f"{result.folder}/model, {result.folder}/report.html")
