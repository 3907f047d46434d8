"""`layersmith explain`: what sublayers compute, and how faithful the answer is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from layersmith.commands.options import takes
from layersmith.explaining.options import ExplainConfig, check
from layersmith.explaining.sections import IN_WORDS
from layersmith.explaining.wording.address import is_address, sent_to
from layersmith.names import model_source, shown_name

if TYPE_CHECKING:
    from layersmith.explaining.result import ExplainResult

#: Columns of the judging table: title, key, format.
COLUMNS = (
    ("local error", "local_error", "{:.4f}"),
    ("divergence", "divergence", "{:.4f}"),
    ("loss recovered", "loss_recovered", "{:.1%}"),
    ("from the mean", "loss_recovered_from_mean", "{:.1%}"),
    ("agreement", "agreement", "{:.1%}"),
    ("params", "params", "{:,}"),
)
#: Characters for a column of the map with its borders: its longest word is "max/median".
CELL = 13
#: Tables of a survey are printed up to so many columns and rows; the page has all of them.
TABLE_COLUMNS, TABLE_ROWS = 8, 20


@takes(ExplainConfig)
def explain(
    model: Annotated[str, typer.Argument(help="a folder, a Hub id, a .gguf file, or pocket")],
    config: ExplainConfig,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress bars")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Say what sublayers compute: map the model, read it through a lens, or put an explanation in a site's place."""
    model_source(model)
    check(config)
    if quiet and config.words_by is not None and is_address(config.words_by):
        typer.echo(sent_to(config.words_by), err=True)  # no progress, and said all the same
    from layersmith.explaining.pipeline import explain as run

    result = run(model, progress=not quiet, **vars(config))
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
        return
    _print(result)


def _print(result: ExplainResult) -> None:
    document = result.document
    console = Console()
    for site in document.get("sites", []):
        _print_site(console, site, document["model"]["name"])
    survey = document.get("survey", {})
    for section in survey.get("sections", []):
        if "map" in section:
            _print_map(console, section["title"], section["map"])
        if "table" in section and len(section["table"]["columns"]) <= TABLE_COLUMNS:
            _print_table(console, section["title"], section["table"])
    if survey.get("verdicts"):
        console.print("\n".join([*survey["verdicts"], ""]), markup=False, highlight=False)
    console.print(f"{result.folder}/result.json · {result.folder}/report.html", markup=False, highlight=False)


def _print_site(console: Console, site: dict[str, Any], model: str) -> None:
    table = Table("", title=escape(f"{shown_name(model)}: {site['name']}"), title_justify="left")
    for title, _, _ in COLUMNS:
        table.add_column(title, justify="right")
    for name, row in site["table"].items():
        cells = ["–" if row[key] is None else show.format(row[key]) for _, key, show in COLUMNS]
        table.add_row(f"rank {site['rank']}" if name == "rank_r" else name, *cells)
    console.print(table)
    size = ", ".join(f"{value:g} {name}" for name, value in site["size"].items())
    console.print("\n".join([f"size: {size}", *site["verdicts"], ""]), markup=False, highlight=False)
    for section in site.get("pages", {}).get("sections", []):
        if section["title"] == IN_WORDS:
            _print_table(console, IN_WORDS, section["table"])


def _print_table(console: Console, title: str, drawn: dict[str, Any]) -> None:
    first, *others = drawn["columns"]
    table = Table(title=escape(title), title_justify="left")
    table.add_column(escape(first), no_wrap=True)
    for column in others:
        table.add_column(escape(column), justify="right", overflow="fold")
    for row in drawn["rows"][:TABLE_ROWS]:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else escape(str(cell)) for cell in row))
    console.print(table)
    if len(drawn["rows"]) > TABLE_ROWS:
        console.print(f"{len(drawn['rows']) - TABLE_ROWS} more rows on the page\n", highlight=False)


def _print_map(console: Console, title: str, drawn: dict[str, Any]) -> None:
    """As many columns side by side as the terminal has room for, the rest under them."""
    left = max([len(row["name"]) for row in drawn["rows"]], default=0)
    together = max(1, (console.width - left - 4) // CELL)
    for start in range(0, len(drawn["columns"]), together):
        shown = slice(start, start + together)
        table = Table("", title=None if start else escape(title), title_justify="left")
        for column in drawn["columns"][shown]:
            table.add_column(column["title"], justify="right", max_width=CELL - 3)
        for row in drawn["rows"]:
            table.add_row(row["name"], *("–" if value is None else f"{value:.2g}" for value in row["values"][shown]))
        console.print(table)
