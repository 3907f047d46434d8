"""The generated pages: one for each part, links that lead somewhere, and text that Markdown shows as it was written."""

from __future__ import annotations

import csv
import importlib
import json
import posixpath
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from layersmith import catalogue, describe, records, standing
from layersmith.explaining.constructions import CONSTRUCTIONS
from layersmith.papers import papers
from layersmith.racing.optimizers import OPTIMIZERS
from layersmith.racing.tasks import TASKS, build_task
from layersmith.refitting import methods

DOCS = Path(__file__).resolve().parents[1] / "docs"
#: Tasks that need data of the machine, or seconds to solve: measured by the benchmark alone.
UNTOLD = {"burgers", "cavity", "darcy", "digits", "dynamics", "impedance", "language_modelling", "replaced"}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("generate")
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def pages(generate: ModuleType) -> dict[str, str]:
    return generate.pages()


@pytest.fixture
def text(generate: ModuleType) -> ModuleType:
    return sys.modules["generate.text"]


def test_every_part_has_a_page_in_the_index_and_in_the_navigation(generate: ModuleType, pages: dict[str, str]) -> None:
    expected = {f"catalogue/{name}.md" for name in catalogue.ENTRIES}
    assert {path for path in pages if path.startswith("catalogue/")} == expected | {"catalogue/index.md"}
    assert {f"catalogue/{n}" for n in re.findall(r"\]\((\w+\.md)\)", pages["catalogue/index.md"])} == expected
    families = [pages for group in generate.navigation() for pages in group.values()]
    listed = [path for pages in families for page in pages for path in page.values()]
    assert set(listed) == expected
    assert len(listed) == len(expected)


@pytest.mark.parametrize("name", catalogue.ENTRIES)
def test_a_page_holds_everything_known_about_its_part(name: str, pages: dict[str, str]) -> None:
    page = pages[f"catalogue/{name}.md"]
    headings = re.findall(r"^## (.*)", page, flags=re.MULTILINE)
    expected = ["Definition", "Arguments", "Cost", "Example", "Evidence"]
    expected += ["Papers"] * bool(catalogue.entry(name).papers)
    expected += ["State"] * bool(catalogue.entry(name).missing)
    expected += ["In a trained model"] * bool(methods.building(name))
    expected += ["Worked example"] * bool(describe.worked_example(name))
    assert sorted(headings) == sorted(expected)
    assert "```text\n" in page  # the equation
    assert "| argument | meaning |" in page
    for key in catalogue.entry(name).papers:
        assert f"papers.md#{key}" in page


def test_every_paper_stands_on_the_page_once_and_every_method_has_its_section(pages: dict[str, str]) -> None:
    assert sorted(re.findall(r'<a id="([^"]+)">', pages["papers.md"])) == sorted(papers())
    assert re.findall(r"^## (\w+)", pages["methods.md"], flags=re.MULTILINE) == list(methods.METHODS)


def test_a_row_of_papers_tells_what_runs_and_what_its_test_would_catch_or_why_nothing_runs(
    pages: dict[str, str], text: ModuleType
) -> None:
    rows = dict(re.findall(r'^\| <a id="([^"]+)"></a>(.*)$', pages["papers.md"], flags=re.MULTILINE))
    for paper in papers().values():
        row, stands = rows[paper.id], standing.standing(paper)
        assert (f" | nothing: {text.inline(standing.reason(paper))}" in row) == stands.nowhere, paper.id
        for kind, _, command in stands.commands:
            assert f"{kind} " in row
            assert f"`{command}`" in row
        for _, claim in stands.claims:
            assert claim.verdict in row
        assert f"`{paper.test}`<br>{text.inline(paper.catches)}" in row or not paper.catches
    for path in (DOCS.parent / "races").glob("*.yaml"):
        for key in yaml.safe_load(path.read_text()).get("papers", []):
            assert f"races/{path.name}" in rows[key]


def test_every_construction_has_its_section_with_every_claim(pages: dict[str, str]) -> None:
    page = pages["constructions.md"]
    assert re.findall(r"^## (\w+)", page, flags=re.MULTILINE) == list(CONSTRUCTIONS)
    for record in records.constructions_as_json():
        section = page.partition(f"## {record['name']}\n")[2].partition("\n## ")[0]
        assert len(re.findall(r"^\| (?:does|stops) \|", section, flags=re.MULTILINE)) == len(record["claims"])


def test_every_task_stands_on_the_page_with_the_yardsticks_that_it_has(pages: dict[str, str]) -> None:
    assert re.findall(r"^## (\w+)", pages["tasks.md"], flags=re.MULTILINE) == list(TASKS)
    rows = dict(re.findall(r"^\| \[(\w+)\]\S+ \| .* \| (.*) \|$", pages["tasks.md"], flags=re.MULTILINE))
    assert list(rows) == list(TASKS)
    for name in TASKS.keys() - UNTOLD:
        told = dict(re.findall(r"([\w ]+) ([\d.e-]+)(?:, |$)", rows[name]))
        found = build_task(name, {}).yardsticks()
        assert {key: pytest.approx(float(value), rel=0.01, abs=1e-4) for key, value in told.items()} == found, (
            f"run benchmarks/race_data.py: the yardsticks of {name} are not those on record"
        )


def test_every_optimizer_has_its_section(pages: dict[str, str]) -> None:
    assert re.findall(r"^## (\w+)", pages["optimizers.md"], flags=re.MULTILINE) == list(OPTIMIZERS)


def test_every_race_stands_on_the_page_as_it_was_published_or_as_not_run(pages: dict[str, str]) -> None:
    page, root = pages["races.md"], DOCS.parent
    written = {path.stem: yaml.safe_load(path.read_text()) for path in (root / "races").glob("*.yaml")}
    published = {path.stem: json.loads(path.read_text()) for path in (root / "benchmarks" / "races").glob("*.json")}
    assert set(published) <= set(written)
    missing = page.partition("## Written, not run")[2].partition("\n## ")[0]
    assert set(re.findall(r"races/(\w+)\.yaml", missing)) == set(written) - set(published)
    assert sorted(re.findall(r"^## (\w+)$", page, flags=re.MULTILINE)) == sorted(published)
    for name, result in published.items():
        race, section = written[name], page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert race["claim"] == result["claim"], f"run benchmarks/races.py {name} again: its claim is another now"
        assert race["expect"].items() <= result["expected"].items()
        assert race["steps"] == result["settings"]["steps"]
        assert set(race["entrants"]) == {row["name"] for row in result["entrants"]}
        (drawn,) = re.findall(r'<figure class="race">.*</figure>', section)
        seeds = "scores_on_longer" if race["expect"].get("split") == "longer" else "scores"
        assert drawn.count("<circle") == sum(s is not None for row in result["entrants"] for s in row[seeds])
        assert result["expected"]["word"] in section
        for row in result["entrants"]:
            assert f"{row['mean']:.4f}" in section
        for each in result["expected"]["against"]:
            assert f"{each['interval'][0]:.4f} to {each['interval'][1]:.4f}" in section


def test_what_was_explained_stands_on_its_page(pages: dict[str, str], text: ModuleType) -> None:
    page, found = pages["explained.md"], DOCS.parent / "benchmarks" / "explain"
    for name in ("map", "feature"):
        assert f"img/{name}.svg" in page
        assert (DOCS / "img" / f"{name}.svg").is_file()
    for path in found.glob("predicts-*.json"):
        for site in json.loads(path.read_text())["sites"]:
            assert f"{site['divergence']:.3g}" in page
    for name, column in (("dictionaries", "divergence"), ("symbolic_headline", "perplexity"), ("acdc", "faithfulness")):
        for path in (DOCS.parent / "benchmarks" / "results").glob(f"{name}-*.csv"):
            assert f" {path.stem.partition('-')[2]}".translate(text.MARKUP) in page
            with path.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines):
                    cell = row[column]
                    assert (f"{float(cell):.3g}" if "." in cell else cell) in page


def test_links_between_pages_lead_to_pages(pages: dict[str, str]) -> None:
    written = {path.name for path in DOCS.glob("*.md")}
    for path, page in pages.items():
        for link in re.findall(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)", page):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
            assert target in pages or target in written, f"{path} links to {link}"


def test_evidence_page_counts_every_part(pages: dict[str, str]) -> None:
    table = pages["evidence.md"].partition("## Parts")[2].partition("## ")[0]
    assert sorted(re.findall(r"^\| \[(\w+)\]", table, flags=re.MULTILINE)) == sorted(catalogue.ENTRIES)


def test_a_tool_that_equals_released_code_is_told_with_its_evidence_and_its_paper(pages: dict[str, str]) -> None:
    tools = pages["evidence.md"].partition("Tools of `explain`:")[2].partition("## ")[0]
    (row,) = [line for line in tools.splitlines() if line.startswith("| [bounds](explain.md#bounds)")]
    assert "auto&#95;LiRPA@" in row
    (paper,) = [line for line in pages["papers.md"].splitlines() if "tool [bounds](explain.md#bounds)" in line]
    assert '<span class="chip yes">official</span>' in paper
    (other,) = [
        line for line in pages["papers.md"].splitlines() if "tool [calibration](explain.md#calibration)" in line
    ]
    assert "chip yes" not in other.partition("tool [calibration]")[2].partition("<br>")[0]


def test_equations_become_code_and_headings_begin_paragraphs(text: ModuleType) -> None:
    shown = text.blocks(
        "Idea one\ngoes on.\n    y = a * b\n\n      with a\nShapes: x.\nPaper: T. When\nit pays: rarely."
    )
    assert shown.split("\n\n") == [
        "Idea one goes on.",
        "```text\ny = a * b",
        "  with a\n```",
        "**Shapes:** x.",
        "**Paper:** T.",
        "**When it pays:** rarely.",
    ]


def test_what_markdown_would_read_as_markup_is_shown_literally(text: ModuleType) -> None:
    shown = text.inline("a_i * b_i * c <d> | [x](y) `f(*_x)` # 1")
    for character in "*_|<[#":
        assert character not in re.sub(r"&#\d+;|</?code>|&lt;|&gt;", "", shown)
    assert "<code>f(&#42;&#95;x)</code>" in shown


def test_arxiv_ids_in_text_become_links(text: ModuleType) -> None:
    assert text.inline("arXiv 2409.10594, arXiv 2401.99999.", "../") == (
        "[arXiv 2409.10594](../papers.md#2409.10594), [arXiv 2401.99999](https://arxiv.org/abs/2401.99999)."
    )


def test_arguments_become_a_table(text: ModuleType) -> None:
    shown = text.arguments("What it is.\n\na, b   two widths\nc      more,\n       told at length\n")
    assert shown.splitlines()[-2:] == ["| `a` `b` | two widths |", "| `c` | more, told at length |"]
    assert shown.startswith("What it is.\n\n| argument | meaning |")


def test_a_claim_is_shown_with_verdict_conditions_and_record(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = sys.modules["record"]
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    evidence = sys.modules["generate.evidence"]
    assert "No claims are on record yet." in evidence.claims_page()
    record.save_claim(
        "fast", "gr_kan", "2409.10594", "twice as fast", "did not hold", "0.9 times at d = 64", [{"x": 1}]
    )
    page = evidence.claims_page()
    for told in (
        "## Did not hold",
        "twice as fast",
        "0.9 times at d = 64",
        "fast.json",
        "catalogue/gr_kan.md",
        "thread",
    ):
        assert told in page
