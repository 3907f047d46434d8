"""Does merging idle channels (arXiv 2505.21847, RePaViT) make a feed-forward faster without changing it?

    python benchmarks/claims/idle_ffn.py

theta = 0.75: of 4 D hidden channels D are active. Trained and merged form, with the same random weights, on 1 x 512
tokens and on one token, float32, one thread, interleaved; at the widths of ViT-Small, Base, Large and Huge.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.ffn.idle_ffn import IdleFFN
from layersmith.measuring.latency import latency, ratio

WIDTHS = (384, 768, 1024, 1280)


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for width in WIDTHS:
        torch.manual_seed(0)
        trained = IdleFFN(width, width, 3 * width)
        merged = trained.merge()
        x = torch.randn(1, 512, width)
        with torch.no_grad():
            expected = trained.double()(x.double())
            difference = float((merged.double()(x.double()) - expected).abs().max() / expected.abs().max())
            trained.float(), merged.float()
        row: dict[str, Any] = {"d_model": width, "relative_difference": difference}
        row["params"] = merged.cost().params / trained.cost().params
        for name, given in (("512_tokens", x), ("one_token", x[:, :1])):
            steps = {"trained": partial(trained, given), "merged": partial(merged, given)}
            row[name] = ratio(latency(steps, rounds=15, min_seconds=0.002), "merged", "trained")
        rows.append(row)
        print(row, flush=True)
    exact = all(row["relative_difference"] < 1e-6 for row in rows)
    # The feed-forward alone must gain at least what the paper reports of whole models, which are not measured here.
    faster = all(row["512_tokens"] < 1 / 1.668 for row in rows[2:])
    verdict = "partly" if exact and faster else "did not hold"
    figures = "; ".join(
        f"D = {row['d_model']}: {row['512_tokens']:.2f}x the time on 512 tokens, {row['one_token']:.2f}x on one"
        for row in rows
    )
    measured = (
        f"The merged form has {rows[0]['params']:.3f}x the parameters; largest difference relative to the largest "
        f"output {max(row['relative_difference'] for row in rows):.0e} (float32 weights run in float64). {figures}. Of "
        f"the feed-forward alone, one CPU thread; whole models and accuracy on ImageNet were not measured."
    )
    claim = "Merging idle channels leaves the outputs equal and speeds large models up by 66.8% and 68.7%"
    print(save_claim("idle_ffn_merge", "idle_ffn", "2505.21847", claim, verdict, measured, rows), verdict)


if __name__ == "__main__":
    main()
