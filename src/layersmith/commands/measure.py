"""`layersmith measure`: what a model costs and how good it is, alone or beside its original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.options import parse_names
from layersmith.commands.words import few_rounds, prediction, quartiles, samples
from layersmith.errors import UserError
from layersmith.measuring.shape import parse_shape
from layersmith.names import check_data, check_device, check_seed, check_tasks, model_source, shown_name


def measure(
    model: Annotated[str, typer.Argument(help="a folder, a Hub id, a .gguf file, or pocket")],
    against: Annotated[str | None, typer.Option(help="the original to compare with")] = None,
    data: Annotated[
        str, typer.Option(help="stdlib, a file or folder of text, pictures or sound, hub:owner/name, or random")
    ] = "stdlib",
    text_column: Annotated[
        str | None, typer.Option(help="of a table (.jsonl, .json, .csv, .tsv); source,target for pairs of texts")
    ] = None,
    at: Annotated[str, typer.Option(help="shapes, separated by commas")] = "prefill=1x512,decode=1x128",
    windows: Annotated[int, typer.Option(help="windows of text that quality is measured on", min=1)] = 16,
    rounds: Annotated[int, typer.Option(help="rounds of interleaved timing", min=1)] = 20,
    questions: Annotated[str | None, typer.Option(help="a JSONL file of multiple-choice questions")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="of lm-evaluation-harness, by name or as .yaml files, separated by commas")
    ] = None,
    task_limit: Annotated[int | None, typer.Option(help="examples of each task; all if not given", min=1)] = None,
    seed: Annotated[int, typer.Option(help="of the windows and the order of timing", min=0)] = 0,
    device: Annotated[str, typer.Option(help="where the model runs and is measured: cpu, cuda, cuda:1, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    trust_code: Annotated[bool, typer.Option("--trust-remote-code", help="import the models' own Python code")] = False,
) -> None:
    """Measure a model, side by side with another one if given, in one run on this machine."""
    shapes = at.split(",")
    _check(model, against, shapes, data, questions, device)
    check_seed(seed)
    wanted = None if tasks is None else parse_names(tasks)
    if wanted is not None:
        check_tasks(wanted)
    from layersmith.checkpoint import load
    from layersmith.measuring.compare import measure as run
    from layersmith.measuring.inputs import is_causal_lm

    def opened(name: str) -> Any:
        return load(name, trust_remote_code=trust_code, device=device, tell=lambda note: typer.echo(note, err=True))

    loaded, tokenizer = opened(model)
    original = opened(against)[0] if against is not None else None
    found = run(
        loaded,
        original,
        tokenizer=tokenizer,
        data=data,
        text_column=text_column,
        at=shapes,
        windows=windows,
        rounds=rounds,
        questions=questions,
        tasks=wanted,
        task_limit=task_limit,
        seed=seed,
    ).to_json()
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    names = [shown_name(model)] if against is None else [f"{shown_name(against)} (original)", shown_name(model)]
    _print(found, names, is_causal_lm(loaded))


def _check(model: str, against: str | None, shapes: list[str], data: str, questions: str | None, device: str) -> None:
    """Refuse at once what could not be measured; nothing is loaded for it."""
    model_source(model)
    if against is not None:
        model_source(against)
    for shape in shapes:
        parse_shape(shape)
    check_data(data, "random")
    check_device(device)
    if questions is not None and not Path(questions).is_file():
        raise UserError(f"There is no file of questions at {questions!r}.")


def _print(found: dict[str, Any], names: list[str], writes: bool) -> None:
    """names  of the models as columns: the original first, where there is one"""
    console = Console()
    compared = found["comparison"] is not None
    columns = [found["against"], found["model"]] if compared else [found["model"]]
    table = Table("")
    for name in names:
        table.add_column(escape(name), justify="right")
    if compared:
        table.add_column("ratio", justify="right")
    for label, values, show in _rows(columns):
        if all(value is None for value in values):
            continue
        cells = [_cell(value, show) for value in values]
        if compared:
            cells.append(_ratio(found, label, values))
        table.add_row(label, *cells)
    console.print(table)
    settings = found["settings"]
    if compared:
        console.print(_differences(found["comparison"], writes), markup=False)
    shown = settings.get("pictures") or settings.get("sound")
    seen = f"positions of {shown}" if shown else f"held-out tokens of {settings['data']}"
    console.print(
        f"quality on {settings['tokens']:,} {seen}; latency is the median of {settings['rounds']} interleaved rounds, "
        f"the middle half their quartiles, on {_where(found['environment'])}",
        markup=False,
    )
    if warning := few_rounds(settings["rounds"]):
        console.print(warning, markup=False)
    for number, sample in enumerate(columns[0]["samples"] or []):
        texts = [(name, each["samples"][number]["text"]) for name, each in zip(names, columns, strict=True)]
        console.print(samples(sample["prompt"], texts), markup=False, highlight=False)


def _cell(value: Any, show: str) -> str:
    if value is None:
        return "–"
    return quartiles(value) if isinstance(value, list) else show.format(value)


def _where(machine: dict[str, Any]) -> str:
    if machine["device"] != "cpu":
        return str(machine["device"])
    return f"{machine['cpu']}, {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"


def _rows(columns: list[dict[str, Any]]) -> list[tuple[str, list[Any], str]]:
    """(label, one value per model, format) of every line of the table."""
    rows = [
        ("params", [c["params"] for c in columns], "{:,}"),
        ("bytes", [c["bytes"] for c in columns], "{:,}"),
    ]
    for at in columns[0]["at"]:
        rows += [
            (f"{at} latency, ms", [c["at"][at]["latency_ms"] for c in columns], "{:.2f}"),
            (f"{at} middle half, ms", [c["at"][at]["latency_ms_spread"] for c in columns], ""),
            (f"{at} FLOPs", [c["at"][at]["flops"] for c in columns], "{:,}"),
            (f"{at} KV cache, bytes", [c["at"][at]["kv_bytes"] for c in columns], "{:,}"),
        ]
    rows += [
        ("perplexity", [c["perplexity"] for c in columns], "{:.3f}"),
        ("bits per byte", [c["bits_per_byte"] for c in columns], "{:.4f}"),
        ("zero-shot accuracy", [c["zeroshot"] and c["zeroshot"]["accuracy"] for c in columns], "{:.3f}"),
    ]
    for task, measures in (columns[0]["tasks"] or {}).items():
        rows += [(f"{task} {name}", [c["tasks"][task][name] for c in columns], "{:.4f}") for name in measures]
    return rows


def _ratio(found: dict[str, Any], label: str, values: list[Any]) -> str:
    """Latency ratios are formed within rounds of timing; the others are of the two figures shown."""
    at, _, rest = label.partition(" ")
    if rest.startswith("latency"):
        return f"{found['comparison']['latency_ratio'][at]:.3f}"
    return f"{values[1] / values[0]:.3f}" if values[0] and not isinstance(values[0], list) else "–"


def _differences(comparison: dict[str, Any], writes: bool) -> str:
    units = {"kl": "nats per token", "relative_squared_error": "relative squared error"}
    said = [f"divergence from the original, {units[comparison['divergence_kind']]}: {comparison['divergence']:.5f}"]
    if comparison["agreement"] is not None:
        said.append(f"{prediction(writes)}: {comparison['agreement']:.1%}")
    if comparison["cosine_distance"] is not None:
        said.append(f"cosine distance: {comparison['cosine_distance']:.5f}")
    if comparison["greedy_agreement"] is not None:
        said.append(f"same greedy text: {comparison['greedy_agreement']:.1%}")
    return " · ".join(said)
