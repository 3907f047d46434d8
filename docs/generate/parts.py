"""The catalogue's table, and one page for each part."""

from __future__ import annotations

import json
from collections import Counter

from generate.evidence import comparisons, rungs, verdict
from generate.text import FAMILIES, arguments, blocks, inline, paper_link, table, worked
from layersmith import catalogue, describe, evidence
from layersmith.errors import UserError
from layersmith.papers import papers

#: The size of the costs on the pages, where the part's example can be scaled to that width.
D_MODEL, BATCH, TOKENS = 512, 1, 512


def index() -> str:
    families = Counter(entry.family for entry in catalogue.ENTRIES.values())
    out = [
        "---\nhide: [toc]\n---",
        "# Catalogue",
        f"{len(catalogue.ENTRIES)} parts. `layersmith catalogue` lists them in a terminal; `layersmith show NAME` "
        "tells what a page here tells, at any size.",
        f"Evidence, lowest rung first: {rungs(evidence.RUNGS)}. A pale rung has not been reached. "
        "[What each means, and what is missing](../evidence.md).",
    ]
    for family, title in FAMILIES.items():
        if not families[family]:
            continue
        rows = [
            [
                f"[{name}]({name}.md)",
                rungs(evidence.of(name).rungs),
                " ".join(paper_link(key, "../") for key in entry.papers),
                inline(catalogue.summary(name), "../"),
            ]
            for name, entry in catalogue.ENTRIES.items()
            if entry.family == family
        ]
        stands = ", ".join(catalogue.STANDS_AT[family])
        out += [f"## {title}", f"Family `{family}`, for sites of kind {stands}."]
        out += [table(["part", "evidence", "papers", "what it is"], rows)]
    return "\n\n".join(out) + "\n"


def page(name: str) -> str:
    entry = catalogue.entry(name)
    idea, _, rest = catalogue.documentation(name).partition("\n\n")
    stands = ", ".join(catalogue.STANDS_AT[entry.family])
    about = f"{FAMILIES[entry.family]} · for sites of kind {stands} · {rungs(evidence.of(name).rungs)}"
    sections = {
        "": f"{inline(idea, '../')}\n{{ .lead }}\n\n{about}",
        "Definition": blocks(rest, "../"),
        "Arguments": arguments(describe.arguments(name), "../"),
        "State": f"Partly: without {inline(entry.missing, '../')}." if entry.missing else "",
        "Cost": _cost(name),
        "In a trained model": _methods(name),
        "Example": f"```python\n{describe.example(catalogue.build(describe.spec_of(name)))}\n```",
        "Worked example": worked(describe.worked_example(name), "../"),
        "Papers": _papers(entry.papers),
        "Evidence": _evidence(name),
    }
    written = [f"## {title}\n\n{text}" if title else text for title, text in sections.items() if text]
    return "\n\n".join([f"# {name}", *written]) + "\n"


def _cost(name: str) -> str:
    if catalogue.entry(name).family == "scheme":
        return "That of the model it is applied to."
    try:
        part = catalogue.build(describe.spec_of(name, D_MODEL))
    except UserError:  # sizes that the width does not scale, such as the factors of a product
        part = catalogue.build(describe.spec_of(name))
    rows = [[label, *(f"{n:,}" for n in row)] for label, row in describe.cost_table(part, BATCH, TOKENS)]
    if not any(row[-1] != "0" for row in rows):
        rows = [row[:-1] for row in rows]
    columns = ["", *describe.COST_COLUMNS][: len(rows[0])]
    sizes = f"At {BATCH} × {TOKENS} tokens, beside the usual parts of the same widths; counted, not timed:"
    settings = json.dumps({key: value for key, value in part.spec().items() if key != "name"})
    return f"{sizes}\n\n`{settings}`\n\n{table(columns, rows, right=range(1, len(columns)))}"


def _methods(name: str) -> str:
    found = [
        f"[`{method.name}`](../methods.md#{method.name}) builds it from a trained layer; tried "
        f"{describe.offered(method)}.\n\n```bash\n{describe.command(method)}\n```\n\n"
        f"**When it pays:** {inline(method.when_it_pays, '../')}"
        for method in describe.builders(name)
    ]
    return "\n\n".join(found)


def _papers(keys: tuple[str, ...]) -> str:
    out = []
    for key in keys:
        paper = papers()[key]
        title = f"[{inline(paper.title)}]({paper.link})" if paper.link else inline(paper.title)
        out.append(f"{paper_link(key, '../')} {title}  \n{inline(paper.mechanism)}")
    return "\n\n".join(out)


def _evidence(name: str) -> str:
    found = evidence.of(name)
    checks = f"{len(found.contract.passed)} passed, {len(found.contract.failed)} failed"
    named = ", ".join(f"`{check}`" for check in found.contract.passed)
    out = [f"Level {found.level}.", f"**Contract**: {checks}. {named}"]
    for rung, outcomes in (("Oracle", found.oracle), ("Official", found.official)):
        rows = [[outcome, f"`{test}`", str(runs)] for outcome, test, runs in describe.tests(outcomes)]
        if rows:
            out += [f"**{rung}**", table(["outcome", "test", "runs"], rows, right=[2])]
    if found.comparisons:
        out += ["**Beside released code**", comparisons([(name, one) for one in found.comparisons], named=False)]
    for claim in found.claims:
        told = f"{verdict(claim.verdict)} {paper_link(claim.paper, '../')}: {inline(claim.claim)}"
        out += [f"**Claim** {told}  \nMeasured: {inline(claim.measured)} (`{claim.file}`)"]
    return "\n\n".join(out)
