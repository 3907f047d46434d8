"""`layersmith refit`: the whole way from a model and a budget to a smaller model and its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from layersmith.errors import UserError

#: Exit status of a run that ended, saved its model, and missed the budget in the last measurement.
BUDGET_MISSED = 3
LINES = (
    ("latency, ms", "latency_ms", "{:.2f}"),
    ("params", "params", "{:,}"),
    ("bytes", "bytes", "{:,}"),
    ("FLOPs", "flops", "{:,}"),
    ("KV cache, bytes", "kv_bytes", "{:,}"),
    ("divergence from the original", "kl", "{:.4f}"),
    ("same next token", "agreement", "{:.1%}"),
    ("perplexity", "perplexity", "{:.3f}"),
    ("bits per byte", "bits_per_byte", "{:.4f}"),
)


def refit(
    model: Annotated[str, typer.Argument(help="a folder, a Hub id, or pocket")],
    budget: Annotated[str, typer.Option(help="shares of the original: latency=0.75,bytes=0.5 (or params, flops, kv)")],
    out: Annotated[Path, typer.Option(help="folder for model/, result.json, report.html and the workspace")],
    methods: Annotated[str | None, typer.Option(help="only these methods, separated by commas")] = None,
    sites: Annotated[
        str | None, typer.Option(help="only these sites, separated by commas: layers.3.ffn or layers.*.attn")
    ] = None,
    data: Annotated[str, typer.Option(help="stdlib, a text file or folder, or hub:owner/name")] = "stdlib",
    at: Annotated[str, typer.Option(help="the shape latency is measured at")] = "prefill=1x512",
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
    distill_steps: Annotated[
        int | None, typer.Option(help="steps of local distillation of each candidate; 0 does not distil", min=0)
    ] = None,
    heal_tokens: Annotated[int | None, typer.Option(help="tokens to heal on; 0 does not heal", min=0)] = None,
    heal_lr: Annotated[float | None, typer.Option(help="peak learning rate of healing")] = None,
    heal_baseline: Annotated[
        bool, typer.Option("--heal-baseline", help="heal the best uniform baseline too, for a fair comparison")
    ] = False,
    effort: Annotated[float, typer.Option(help="scales text and steps: 0.1 a quick look, 4 thorough")] = 1.0,
    workers: Annotated[int, typer.Option(help="processes that build candidates at the same time", min=1)] = 1,
    device: Annotated[str, typer.Option(help="where the model runs and is measured: cpu, cuda, cuda:1, mps")] = "cpu",
    reuse: Annotated[
        Path | None, typer.Option(help="folder of an earlier run that differs in budget and healing alone")
    ] = None,
    trust_code: Annotated[bool, typer.Option("--trust-remote-code", help="import the model's own Python code")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress bars")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Find the best mix of alternatives under a budget, heal it, measure it, save it and report on it."""
    from layersmith.refitting.pipeline import refit as run

    result = run(
        model,
        budget=parse_budget(budget),
        out=out,
        data=data,
        at=at,
        methods=methods.split(",") if methods is not None else None,
        sites=sites.split(",") if sites is not None else None,
        seed=seed,
        distill_steps=distill_steps,
        heal_tokens=heal_tokens,
        heal_lr=heal_lr,
        heal_baseline=heal_baseline,
        effort=effort,
        trust_remote_code=trust_code,
        workers=workers,
        device=device,
        reuse=reuse,
        progress=not quiet,
    )
    if as_json:
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        _print(result, out)
    if not result["chosen"]["meets_budget"]:
        raise typer.Exit(BUDGET_MISSED)


def parse_budget(text: str) -> dict[str, float]:
    """`"latency=0.75,bytes=0.5"` -> `{"latency": 0.75, "bytes": 0.5}`."""
    budget = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            budget[name.strip()] = float(value)
        except ValueError as error:
            raise UserError(
                f"The budget {text!r} is not of the form NAME=SHARE[,NAME=SHARE]: {part!r} has no number after an "
                f"equals sign. Write, for example, latency=0.75,bytes=0.5."
            ) from error
    return budget


def _print(result: dict[str, Any], out: Path) -> None:
    original, refitted = result["baseline"], result["chosen"]["measured"]
    table = Table("", title=f"{result['model']['name']} at {result['settings']['at']}", title_justify="left")
    for column in ("original", "refitted", "ratio"):
        table.add_column(column, justify="right")
    for label, key, show in LINES:
        before, after = original.get(key), refitted.get(key)
        if after is None:
            continue
        cells = [show.format(before) if before is not None else "–", show.format(after)]
        share = refitted["latency_ratio"] if key == "latency_ms" else after / before if before else None
        table.add_row(label, *cells, f"{share:.3f}" if share is not None else "–")
    console = Console()
    console.print(table)
    wanted = ", ".join(f"{name} <= {share:g}" for name, share in result["settings"]["budget"].items())
    met = "met" if result["chosen"]["meets_budget"] else f"NOT met ({_missed(result)})"
    console.print(f"budget {wanted}: {met}, as measured end to end", markup=False)
    console.print(f"reloaded in a fresh process: largest difference {result['reload_max_abs_diff']:.1e}", markup=False)
    console.print(f"{out}/model · {out}/result.json · {out}/report.html", markup=False)


def _missed(result: dict[str, Any]) -> str:
    """What was reached against what was asked, told apart."""
    from layersmith.report.reading import missed
    from layersmith.report.units import apart

    both = {name: apart(share, bound) for name, (share, bound) in missed(result).items()}
    return ", ".join(f"{name} {share} against {bound}" for name, (share, bound) in both.items())
