"""What `layersmith show` tells about what is no part: adapters, constructions, tools, tasks, optimizers, papers, ..."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from layersmith.commands.words import tell


def print_cited(console: Console, ids: tuple[str, ...]) -> None:
    """One line for each paper: id, title, link."""
    from layersmith.papers import papers

    for key in ids:
        read = papers()[key]
        console.print(f"[bold]Paper[/bold]      {key} {escape(read.title)} {read.link or ''}", soft_wrap=True)


def print_construction(console: Console, name: str) -> None:
    from layersmith import records

    record = records.construction_as_json(name)
    console.rule(f"{name} · construction", align="left")
    tell(console, records.construction_text(name))
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
    from layersmith import records

    record = records.tool_as_json(name)
    console.rule(f"{name} · tool", align="left")
    console.print(escape(record["summary"]) + "\n", soft_wrap=True)
    for key, default in record["settings"].items():
        console.print(f"[bold]Setting[/bold]    {key}: {default} if not given", soft_wrap=True)
    print_cited(console, tuple(paper["id"] for paper in record["papers"]))
    console.print(f"[bold]Use it[/bold]     layersmith explain MODEL --with {name}")


def print_task(console: Console, name: str) -> None:
    from layersmith import records

    record = records.task_as_json(name)
    console.rule(f"{name} · task", align="left")
    console.print(escape(record["summary"]) + "\n", soft_wrap=True)
    console.print(f"[bold]Metric[/bold]     {record['metric']}")
    print_cited(console, tuple(paper["id"] for paper in record["papers"]))
    console.print(f"[bold]Use it[/bold]     layersmith race --task {name}")


def print_optimizer(console: Console, name: str) -> None:
    from layersmith import records

    record = records.optimizer_as_json(name)
    console.rule(f"{name} · optimizer", align="left")
    tell(console, records.optimizer_text(name))
    for key, default in record["settings"].items():
        console.print(f"[bold]Setting[/bold]    {key}: {default} if not given", soft_wrap=True)
    console.print(f"[bold]Rates[/bold]      tried if none are given: {', '.join(f'{lr:g}' for lr in record['lr'])}")
    console.print(f"[bold]Gradients[/bold]  {record['gradients']} a step")
    if record["state"]["is"] == "partly":
        console.print(f"[bold]State[/bold]      partly: without {escape(record['state']['missing'])}", soft_wrap=True)
    print_cited(console, tuple(paper["id"] for paper in record["papers"]))
    console.print(f"[bold]Use it[/bold]     layersmith race --optimizer adamw,{name}")


def print_adapter(console: Console, name: str) -> None:
    from layersmith import records

    record = records.adapter_as_json(name)
    console.rule(f"{name} · adapter", align="left")
    tell(console, records.adapter_text(name))
    console.print(f"[bold]Rate[/bold]       {record['rate']:g} times that of whole weights, if none is given")
    print_state(console, record["state"].get("missing", ""))
    print_cited(console, tuple(paper["id"] for paper in record["papers"]))
    console.print(f"[bold]Use it[/bold]     layersmith refit MODEL --budget … --heal-adapter {name}")


def print_state(console: Console, missing: str) -> None:
    """Whether everything its papers have is there."""
    console.print(
        "[bold]State[/bold]      " + (f"partly: without {escape(missing)}" if missing else "working"), soft_wrap=True
    )


def print_fold(console: Console, name: str) -> None:
    from layersmith import records
    from layersmith.refitting.prove.folds import FOLDS

    fold = FOLDS[name]
    console.rule(f"{name} · fold", align="left")
    tell(console, records.fold_text(name))
    tried = "tried on the result of every run" if fold.tried else "by hand only"
    console.print(f"[bold]In refit[/bold]   {tried}")
    console.print(f"[bold]Pays[/bold]       {escape(fold.when_it_pays)}", soft_wrap=True)
    print_state(console, fold.missing)
    print_cited(console, fold.papers)
    console.print("[bold]Example[/bold]")
    console.print(
        f"  from layersmith import load, sites\n  from layersmith.refitting.prove.folds import FOLDS\n\n"
        f"  model, tokenizer = load('MODEL')\n  fold = FOLDS[{name!r}].make(model, sites(model))\n"
        f"  undo = fold.apply(model)"
    )


def print_paper(console: Console, key: str) -> None:
    from layersmith import standing
    from layersmith.papers import papers

    paper = papers()[key]
    console.rule(f"{paper.id} · {paper.kind}", align="left")
    console.print(f"[bold]{escape(paper.title)}[/bold] {paper.link or ''}\n", soft_wrap=True)
    console.print(escape(paper.mechanism) + "\n", soft_wrap=True)
    stands = standing.standing(paper)
    if stands.nowhere:
        console.print(f"[bold]Stands as[/bold]  nothing: {escape(standing.reason(paper))}", soft_wrap=True)
    else:
        console.print("[bold]Stands as[/bold]")
    for kind, name, command in stands.commands:
        console.print(f"  {kind:<12} {name}: {command}", soft_wrap=True)
    if paper.catches:
        console.print(f"[bold]Tested in[/bold]  {paper.test}", soft_wrap=True)
        console.print(f"[bold]Catches[/bold]    {escape(paper.catches)}", soft_wrap=True)
    for part, claim in stands.claims:
        console.print(f"  claim        {claim.verdict} ({part}): {escape(claim.claim)}", soft_wrap=True)
        console.print(f"               measured: {escape(claim.measured)} ({claim.file})", soft_wrap=True)
