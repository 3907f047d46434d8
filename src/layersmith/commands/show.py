"""`layersmith show` tells everything about one thing that can be run, or about a source paper."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from layersmith.commands.catalogue import as_records
from layersmith.commands.config import parse_config
from layersmith.commands.shown import (
    print_adapter,
    print_construction,
    print_fold,
    print_optimizer,
    print_paper,
    print_task,
    print_tool,
)
from layersmith.commands.shown_part import print_part
from layersmith.errors import UserError


def show(
    words: Annotated[
        list[str], typer.Argument(help="a part, method, fold, ..., task, optimizer, arXiv id, or words of a title")
    ],
    d_model: Annotated[int | None, typer.Option(help="width; every d_… of the example grows with it")] = None,
    config: Annotated[str | None, typer.Option(help="constructor arguments as JSON, over the example's")] = None,
    batch: Annotated[int, typer.Option(help="batch size of the cost", min=1)] = 1,
    tokens: Annotated[int, typer.Option(help="tokens per sequence of the cost", min=1)] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, as in `layersmith catalogue --json`")] = False,
) -> None:
    """All about one part: idea, equation, papers, evidence, claims, cost, methods. Or about a method, fold or paper."""
    from layersmith import search
    from layersmith.commands.methods import print_method

    item = search.item_named(" ".join(words))
    if item.kind not in ("part", "scheme") and (d_model is not None or config is not None):
        raise UserError(f"--d-model and --config are about a part, and {item.name!r} is a {item.kind}.")
    given = parse_config(config) if config else {}
    if as_json:
        (record,) = [record for records in as_records([item]).values() for record in records]
        if item.kind == "part":
            record |= _sized(item.name, d_model, given, (batch, tokens))
        print(json.dumps(record, indent=1, ensure_ascii=False))  # noqa: T201
        return
    console = Console(highlight=False)
    if item.kind == "paper":
        print_paper(console, item.name)
    elif item.kind == "method":
        print_method(console, item.name)
    elif item.kind == "fold":
        print_fold(console, item.name)
    elif item.kind == "adapter":
        print_adapter(console, item.name)
    elif item.kind == "construction":
        print_construction(console, item.name)
    elif item.kind == "tool":
        print_tool(console, item.name)
    elif item.kind == "task":
        print_task(console, item.name)
    elif item.kind == "optimizer":
        print_optimizer(console, item.name)
    else:
        print_part(console, item.name, d_model, given, (batch, tokens))


def _sized(name: str, d_model: int | None, config: dict[str, object], size: tuple[int, int]) -> dict[str, object]:
    """The part at its sizes, as JSON: its spec, and what it costs at (batch, tokens)."""
    from layersmith import catalogue as table
    from layersmith import describe

    part = table.build(describe.spec_of(name, d_model, config))
    _, figures = next(describe.cost_table(part, *size))
    cost = dict(zip(describe.COST_COLUMNS, figures, strict=True))
    return {"spec": part.spec(), "cost": {"at": "{}x{}".format(*size), **cost}}
