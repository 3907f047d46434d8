"""Race two mixers at equal parameters, and one of them against itself. Small settings, so that it takes a minute."""

import sys

import layersmith

result = layersmith.race(
    mixer=["deltanet", "deltanet", "linear_attention"],
    task="recall",
    task_settings={"vocabulary": 32, "pairs": 4, "tokens": 24},
    budget={"params": 30_000},
    steps=200,
    lr=[3e-3],
    out=sys.argv[1] if len(sys.argv) > 1 else "out/example_race",
)
for row in result.leaderboard:
    print(f"{row['name']:18} {row['verdict']:20} {row['mean']:.3f}, behind by {row['difference']:.3f}")
print("what needs no training:", result["yardsticks"])
print("winner:", result.winner)
print(f"{result.folder}/report.html")
