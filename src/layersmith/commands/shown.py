"""What `layersmith show` tells about a construction, a tool of `explain` and a task of `race`; and to a slip."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources

from rich.console import Console
from rich.markup import escape

from layersmith.errors import UserError


def refuse_a_slip(name: str) -> None:
    """Answer a name that is nearly one at once: the search would first import all that can be run."""
    from layersmith.explaining.constructions import CONSTRUCTIONS
    from layersmith.explaining.tools import TOOLS
    from layersmith.papers import papers
    from layersmith.parts import ENTRIES
    from layersmith.racing.tasks import TASKS
    from layersmith.refitting.methods import METHODS

    known = [*ENTRIES, *METHODS, *CONSTRUCTIONS, *TOOLS, *TASKS]
    written = name.strip().lower().replace(" ", "_").replace("-", "_")
    near = get_close_matches(written, known, n=3, cutoff=0.7)
    folds = resources.files("layersmith.refitting").joinpath("prove", "folds", f"{written}.py").is_file()
    if not near or written in known or folds or any(name.lower() in paper.title.lower() for paper in papers().values()):
        return
    meant = " or ".join(map(repr, near))
    raise UserError(f"Nothing is called {name!r}. Did you mean {meant}? `layersmith catalogue WORDS` searches.")


def print_cited(console: Console, ids: tuple[str, ...]) -> None:
    """One line for each paper: id, title, link."""
    from layersmith.papers import papers

    for key in ids:
        read = papers()[key]
        console.print(f"[bold]Paper[/bold]      {key} {escape(read.title)} {read.link or ''}", soft_wrap=True)


def print_construction(console: Console, name: str) -> None:
    from layersmith import describe

    record = describe.construction_as_json(name)
    console.rule(f"{name} · construction", align="left")
    console.print(escape(describe.construction_text(name)) + "\n", soft_wrap=True)
    for key, setting in record["settings"].items():
        bounds = f"{setting['default']:g}, from {setting['least']:g} to {setting['most']:g}"
        console.print(f"[bold]Setting[/bold]    {key}: {escape(setting['meaning'])} ({bounds})", soft_wrap=True)
    for claim in record["claims"]:
        title = "Limit" if claim["limit"] else "Claim"
        told = escape(f"{claim['what']}: {claim['how']} {claim['bound']}")
        console.print(f"[bold]{title}[/bold]      {told}", soft_wrap=True)
    print_cited(console, tuple(paper["id"] for paper in record["papers"]))
    console.print(f"[bold]Prove it[/bold]   layersmith construct {name}")


def print_tool(console: Console, name: str) -> None:
    from layersmith import describe

    record = describe.tool_as_json(name)
    console.rule(f"{name} · tool", align="left")
    console.print(escape(record["summary"]) + "\n", soft_wrap=True)
    for key, default in record["settings"].items():
        console.print(f"[bold]Setting[/bold]    {key}: {default} if not given", soft_wrap=True)
    print_cited(console, tuple(paper["id"] for paper in record["papers"]))
    console.print(f"[bold]Use it[/bold]     layersmith explain MODEL --with {name}")


def print_task(console: Console, name: str) -> None:
    from layersmith import describe

    record = describe.task_as_json(name)
    console.rule(f"{name} · task", align="left")
    console.print(escape(record["summary"]) + "\n", soft_wrap=True)
    console.print(f"[bold]Metric[/bold]     {record['metric']}")
    print_cited(console, tuple(paper["id"] for paper in record["papers"]))
    console.print(f"[bold]Use it[/bold]     layersmith race --task {name}")
