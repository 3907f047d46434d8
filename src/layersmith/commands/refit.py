"""`layersmith refit`: the whole way from a model and a budget to a smaller model and its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.options import takes
from layersmith.commands.words import prediction
from layersmith.names import model_source, shown_name
from layersmith.refitting.options import RefitConfig, check

#: Exit status of a run that ended, saved its model, and missed the budget in the last measurement.
BUDGET_MISSED = 3
#: What the table tells of both models: label, key in the result, format.
COSTS = (
    ("latency, ms", "latency_ms", "{:.2f}"),
    ("params", "params", "{:,}"),
    ("bytes", "bytes", "{:,}"),
    ("FLOPs", "flops", "{:,}"),
    ("KV cache, bytes", "kv_bytes", "{:,}"),
)


@takes(RefitConfig)
def refit(
    model: Annotated[str, typer.Argument(help="a folder, a Hub id, a .gguf file, or pocket")],
    config: RefitConfig,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress bars")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Find the best mix of alternatives under a budget, heal it, measure it, save it and report on it."""
    model_source(model)
    check(config)
    from layersmith.refitting.pipeline import refit as run

    result = run(model, progress=not quiet, **vars(config)).to_json()
    if as_json:
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        _print(result, config.out)
    if not result["chosen"]["meets_budget"]:
        raise typer.Exit(BUDGET_MISSED)


def _print(result: dict[str, Any], out: Path) -> None:
    original, refitted = result["baseline"], result["chosen"]["measured"]
    title = escape(f"{shown_name(result['model']['name'])} at {result['settings']['at']}")
    table = Table("", title=title, title_justify="left")
    for column in ("original", "refitted", "ratio"):
        table.add_column(column, justify="right")
    for label, key, show in (*COSTS, *_qualities(refitted)):
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
    told = [
        f"budget {wanted}: {met}, as measured end to end",
        f"reloaded in a fresh process: largest difference {result['reload_max_abs_diff']:.1e}",
        f"{out}/model · {out}/result.json · {out}/report.html",
        *_compiled(result.get("compiled")),
        "",
        how_to_load(result, out),
    ]
    console.print("\n".join(told), markup=False, highlight=False, soft_wrap=True)


def _compiled(found: dict[str, Any] | None) -> list[str]:
    """The line about both models under torch.compile, where that was asked for."""
    if not found:
        return []
    if "refused" in found:
        return [f"torch.compile fails on this model, so nothing was measured under it: {found['refused']}"]
    original, refitted = found["original"], found["refitted"]
    return [
        f"under torch.compile: {original['latency_ms']:.2f} ms ({original['eager_ratio']:.3f} of the original eager) "
        f"and {refitted['latency_ms']:.2f} ms ({refitted['eager_ratio']:.3f} of the result eager), ratio "
        f"{refitted['latency_ratio']:.3f}; compiling took {original['compile_seconds']:.0f} and "
        f"{refitted['compile_seconds']:.0f} s"
    ]


def _missed(result: dict[str, Any]) -> str:
    """What was reached against what was asked, told apart."""
    from layersmith.report.reading import missed
    from layersmith.report.units import apart

    both = {name: apart(share, bound) for name, (share, bound) in missed(result).items()}
    return ", ".join(f"{name} {share} against {bound}" for name, (share, bound) in both.items())


def _qualities(measured: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """The lines about quality, in the words that are true for the kind of model."""
    writes = measured.get("perplexity") is not None
    tokens = measured.get("divergence_kind", "kl") == "kl"
    return (
        ("divergence, nats per token" if tokens else "divergence, relative squared error", "divergence", "{:z.4f}"),
        (prediction(writes), "agreement", "{:.1%}"),
        ("perplexity", "perplexity", "{:.3f}"),
        ("bits per byte", "bits_per_byte", "{:.4f}"),
    )


def how_to_load(result: dict[str, Any], out: Path) -> str:
    """Lines of Python, to be pasted, that load the result with transformers."""
    folder = str(out / "model")
    if result["export"] == "stock":
        name = result["model"]["architecture"]
        return (
            f"# the model is an ordinary one of transformers; nothing else is needed to load it\n"
            f"from transformers import {name}\n"
            f"model = {name}.from_pretrained({folder!r})"
        )
    name = "AutoModelForCausalLM" if result["chosen"]["measured"].get("perplexity") is not None else "AutoModel"
    return (
        f"# the model has parts of layersmith, which must be installed where it is loaded\n"
        f"from transformers import {name}\n"
        f"model = {name}.from_pretrained({folder!r}, trust_remote_code=True)"
    )
