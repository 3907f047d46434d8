"""What `layersmith show` tells about a construction, a tool of `explain`, a task and an optimizer of `race`."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape


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


def print_optimizer(console: Console, name: str) -> None:
    from layersmith import describe

    record = describe.optimizer_as_json(name)
    console.rule(f"{name} · optimizer", align="left")
    console.print(escape(describe.optimizer_text(name)) + "\n", soft_wrap=True)
    for key, default in record["settings"].items():
        console.print(f"[bold]Setting[/bold]    {key}: {default} if not given", soft_wrap=True)
    console.print(f"[bold]Rates[/bold]      tried if none are given: {', '.join(f'{lr:g}' for lr in record['lr'])}")
    console.print(f"[bold]Gradients[/bold]  {record['gradients']} a step")
    if record["state"]["is"] == "partly":
        console.print(f"[bold]State[/bold]      partly: without {escape(record['state']['missing'])}", soft_wrap=True)
    print_cited(console, tuple(paper["id"] for paper in record["papers"]))
    console.print(f"[bold]Use it[/bold]     layersmith race --optimizer adamw,{name}")
