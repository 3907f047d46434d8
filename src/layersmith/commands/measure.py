"""`layersmith measure`: what a model costs and how good it is, alone or beside its original."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def measure(
    model: Annotated[str, typer.Argument(help="a folder, a Hub id, or pocket")],
    against: Annotated[str | None, typer.Option(help="the original to compare with")] = None,
    data: Annotated[str, typer.Option(help="stdlib, a text file or folder, hub:owner/name, or random")] = "stdlib",
    at: Annotated[str, typer.Option(help="shapes, separated by commas")] = "prefill=1x512,decode=1x128",
    windows: Annotated[int, typer.Option(help="windows of text that quality is measured on", min=1)] = 16,
    rounds: Annotated[int, typer.Option(help="rounds of interleaved timing", min=1)] = 20,
    questions: Annotated[str | None, typer.Option(help="a JSONL file of multiple-choice questions")] = None,
    seed: Annotated[int, typer.Option(help="of the windows and the order of timing")] = 0,
    device: Annotated[str, typer.Option(help="where the model runs and is measured: cpu, cuda, cuda:1, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    trust_code: Annotated[bool, typer.Option("--trust-remote-code", help="import the models' own Python code")] = False,
) -> None:
    """Measure a model, side by side with another one if given, in one run on this machine."""
    from layersmith.checkpoint import load
    from layersmith.measuring.compare import measure as run

    def opened(name: str) -> Any:
        return load(name, trust_remote_code=trust_code, device=device, tell=lambda note: typer.echo(note, err=True))

    loaded, tokenizer = opened(model)
    original = opened(against)[0] if against is not None else None
    found = run(
        loaded,
        original,
        tokenizer=tokenizer,
        data=data,
        at=at.split(","),
        count=windows,
        rounds=rounds,
        questions=questions,
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    _print(found, model, against)


def _print(found: dict[str, Any], model: str, against: str | None) -> None:
    console = Console()
    table = Table("")
    columns = [found["against"], found["model"]] if against is not None else [found["model"]]
    for name in [against, model] if against is not None else [model]:
        table.add_column(name, justify="right")
    if against is not None:
        table.add_column("ratio", justify="right")
    for label, values, show in _rows(columns):
        if all(value is None for value in values):
            continue
        cells = [show.format(value) if value is not None else "–" for value in values]
        if against is not None:
            cells.append(_ratio(found, label, values))
        table.add_row(label, *cells)
    console.print(table)
    settings = found["settings"]
    if against is not None:
        console.print(_differences(found["comparison"]), markup=False)
    console.print(
        f"quality on {settings['tokens']:,} held-out tokens of {settings['data']}; latency is the median of "
        f"{settings['rounds']} interleaved rounds on {_where(found['environment'])}",
        markup=False,
    )
    for sample in columns[-1]["samples"] or []:
        console.print(f"\n… {sample['prompt'][-60:]!r}", markup=False)
        for column in columns:
            text = next(s["text"] for s in column["samples"] if s["prompt"] == sample["prompt"])
            console.print(f"  {text!r}", markup=False)


def _where(machine: dict[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['threads']} threads" if machine["device"] == "cpu" else machine["device"]


def _rows(columns: list[dict[str, Any]]) -> list[tuple[str, list[Any], str]]:
    """(label, one value per model, format) of every line of the table."""
    rows = [
        ("params", [c["params"] for c in columns], "{:,}"),
        ("bytes", [c["bytes"] for c in columns], "{:,}"),
    ]
    for at in columns[0]["at"]:
        rows += [
            (f"{at} latency, ms", [c["at"][at]["latency_ms"] for c in columns], "{:.2f}"),
            (f"{at} FLOPs", [c["at"][at]["flops"] for c in columns], "{:,}"),
            (f"{at} KV cache, bytes", [c["at"][at]["kv_bytes"] for c in columns], "{:,}"),
        ]
    rows += [
        ("perplexity", [c["perplexity"] for c in columns], "{:.3f}"),
        ("bits per byte", [c["bits_per_byte"] for c in columns], "{:.4f}"),
        ("zero-shot accuracy", [c["zeroshot"] and c["zeroshot"]["accuracy"] for c in columns], "{:.3f}"),
    ]
    return rows


def _ratio(found: dict[str, Any], label: str, values: list[Any]) -> str:
    """Latency ratios are formed within rounds of timing; the others are of the two figures shown."""
    at, _, rest = label.partition(" ")
    if rest.startswith("latency"):
        return f"{found['comparison']['latency_ratio'][at]:.3f}"
    return f"{values[1] / values[0]:.3f}" if values[0] else "–"


def _differences(comparison: dict[str, Any]) -> str:
    names = {"kl": "KL to the original, nats per token", "relative_squared_error": "relative squared error"}
    said = [f"{names[comparison['divergence_kind']]}: {comparison['divergence']:.5f}"]
    if comparison["agreement"] is not None:
        said.append(f"same next token: {comparison['agreement']:.1%}")
    if comparison["cosine_distance"] is not None:
        said.append(f"cosine distance: {comparison['cosine_distance']:.5f}")
    if comparison["greedy_agreement"] is not None:
        said.append(f"same greedy text: {comparison['greedy_agreement']:.1%}")
    return " · ".join(said)
