"""From plain text, as docstrings are written, to Markdown: paragraphs, indented equations, arguments, tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from layersmith.papers import papers

FAMILIES = {
    "ffn": "Feed-forward",
    "mixer": "Token mixing",
    "norm": "Normalisation",
    "linear": "Linear maps",
    "block": "Blocks",
    "scheme": "How whole models start",
}
#: Characters that Markdown would read as markup.
MARKUP = str.maketrans({c: f"&#{ord(c)};" for c in "*_[]|`#~\\^"})
HEADING = re.compile(r"(?:Shapes?|State|Papers?|Differs from the papers?|When\s+it\s+pays):\s")
ARGUMENT = re.compile(r"(\S.*?) {2,}(\S.*)")


def inline(text: str, up: str = "") -> str:
    """One paragraph: `code` is kept, everything else is literal, paper and arXiv ids become links.

    up  path from the page to docs/, for links to the papers ("../" from a folder)
    """
    pieces = re.split(r"`([^`]+)`", " ".join(text.split()))
    for n, piece in enumerate(pieces):
        literal = html.escape(piece, quote=False).translate(MARKUP)
        pieces[n] = f"<code>{literal}</code>" if n % 2 else _linked(literal, up)
    return "".join(pieces)


def _linked(text: str, up: str) -> str:
    def link(found: re.Match[str]) -> str:
        page = f"{up}papers.md#{found[1]}" if found[1] in papers() else f"https://arxiv.org/abs/{found[1]}"
        return f"[arXiv {found[1]}]({page})"

    return re.sub(r"\barXiv:? (\d{4}\.\d{4,5})\b", link, text)


def paper_link(key: str, up: str = "") -> str:
    """Leads to the paper's row, by its arXiv id; by its title where there is none."""
    paper = papers()[key]
    return f"[{paper.arxiv or inline(paper.title)}]({up}papers.md#{key})"


def blocks(text: str, up: str = "") -> str:
    """A docstring: lines indented by four are equations, the rest are paragraphs; known headings begin a new one."""
    out: list[str] = []
    text = re.sub(r"\s+(?=When\s+it\s+pays:\s)", "\n", text)
    for indented, lines in _runs(text.splitlines()):
        if indented:
            equation = "\n".join(line[4:] for line in lines).strip("\n")
            out.append(f"```text\n{equation}\n```")
            continue
        for paragraph in re.split(rf"\n\n|\n(?={HEADING.pattern})", "\n".join(lines).strip()):
            found = HEADING.match(paragraph)
            head = f"**{' '.join(found[0].split())}** " if found else ""
            if paragraph.strip():
                out.append(head + inline(paragraph[found.end() if found else 0 :], up))
    return "\n\n".join(out)


def _runs(lines: Sequence[str]) -> Iterable[tuple[bool, list[str]]]:
    """Neighbouring lines of one kind; a blank line goes with what is before it."""
    run: list[str] = []
    kind = False
    for line in lines:
        indented = line.startswith("    ") if line.strip() else kind
        if indented != kind and run:
            yield kind, run
            run = []
        kind = indented
        run.append(line)
    yield kind, run


def arguments(text: str, up: str = "") -> str:
    """A class docstring: prose, and lines "names   meaning" (continued on lines indented further) as a table."""
    prose, rows = [], []
    for line in text.splitlines():
        found = ARGUMENT.fullmatch(line)
        if found:
            rows.append([found[1], found[2]])
        elif line.startswith("    ") and rows:
            rows[-1][1] += " " + line.strip()
        else:
            prose.append(line)
    listed = [[" ".join(f"`{name}`" for name in names.split(", ")), inline(meaning, up)] for names, meaning in rows]
    return blocks("\n".join(prose).strip(), up) + ("\n\n" + table(["argument", "meaning"], listed) if listed else "")


def worked(example: str, up: str = "") -> str:
    """A worked example: paragraphs of prose, and doctests as they would look in a terminal."""
    paragraphs = example.split("\n\n") if example else []
    return "\n\n".join(f"```pycon\n{p}\n```" if p.startswith(">>>") else inline(p, up) for p in paragraphs)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table of cells that are Markdown already; `right` are the columns of figures."""
    rules = ["---:" if n in set(right) else "---" for n in range(len(columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rules, *rows])


def chips(pairs: Iterable[tuple[str, str]]) -> str:
    """Small labels: (class, text) each."""
    labels = " ".join(f'<span class="chip {kind}">{html.escape(text)}</span>' for kind, text in pairs)
    return f'<span class="chips">{labels}</span>'
