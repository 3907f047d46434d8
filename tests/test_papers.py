"""The table of source papers: well-formed, keyed by what the public knows, and in step with what is made from them."""

from __future__ import annotations

import itertools
import re
from difflib import SequenceMatcher
from pathlib import Path

import pytest
import typer

from layersmith import catalogue, describe, papers, standing
from layersmith.cli import app
from layersmith.explaining import constructions, tools
from layersmith.papers import ARXIV, Paper
from layersmith.refitting import methods
from layersmith.refitting.prove.folds import FOLDS

ROOT = Path(__file__).resolve().parents[1]
#: Papers of which something stands while nobody has read yet what its test would catch: sorted, one a line. It only
#: shrinks: whoever writes `test` and `catches` into papers.toml takes the name out.
NOT_YET: list[str] = []


def test_all_papers_are_there() -> None:
    assert len(papers.papers()) >= 415
    assert sum(bool(paper.arxiv) for paper in papers.papers().values()) >= 75


def test_titles_and_mechanisms_are_sentences_of_their_own() -> None:
    table = papers.papers().values()
    assert len({p.title for p in table}) == len({p.mechanism for p in table}) == len(table)
    for paper in table:
        assert paper.mechanism.endswith("."), paper.id
        assert len(paper.mechanism) <= 200, paper.id


def test_ids_are_arxiv_ids_or_words_of_the_title() -> None:
    for paper in papers.papers().values():
        if not ARXIV.fullmatch(paper.id):
            assert paper.link is None
            assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", paper.id)
            assert set(paper.id.split("-")) <= set(re.findall(r"[a-z0-9]+", paper.title.lower().replace("'", "")))
            continue
        year_month, _, number = paper.id.partition(".")
        assert 1 <= int(year_month[2:]) <= 12, paper.id
        assert len(number) == (5 if year_month >= "1501" else 4), paper.id
        assert paper.link == f"https://arxiv.org/abs/{paper.id}"


@pytest.mark.parametrize(("key", "year"), [("1207.0580", 2012), ("2409.10594", 2024), ("some-words", None)])
def test_year_is_read_from_the_arxiv_id(key: str, year: int | None) -> None:
    assert Paper(key, "t", "ffn", "m.").year == year


def test_everything_is_made_from_papers_of_the_table() -> None:
    named = [entry.papers for entry in catalogue.ENTRIES.values()]
    named += [methods.get(name).papers for name in methods.METHODS] + [fold.papers for fold in FOLDS.values()]
    named += [constructions.get(name).papers for name in constructions.CONSTRUCTIONS]
    named += [tools.get(name).papers for name in tools.TOOLS]
    assert {key for keys in named for key in keys} <= papers.papers().keys()


def test_a_paper_has_a_reason_exactly_where_nothing_is_made_from_it() -> None:
    for paper in papers.papers().values():
        stands = standing.standing(paper)
        assert bool(standing.reason(paper)) == stands.nowhere, paper.id
        assert not paper.reason or stands.nowhere, f"{paper.id} stands here, and the table says why it cannot"


def test_whatever_stands_tells_what_its_test_would_catch() -> None:
    """Exactly what stands has a line, but for `NOT_YET`, which names nothing that has one or stands nowhere."""
    table = papers.papers()
    stand = {key for key, paper in table.items() if not standing.standing(paper).nowhere}
    told = {key for key, paper in table.items() if paper.catches}
    assert told <= stand, f"nothing stands for {sorted(told - stand)}, so that no test can catch anything"
    assert sorted(set(NOT_YET)) == NOT_YET
    assert sorted(stand - told) == NOT_YET, "write test and catches into papers.toml, or take the name out of NOT_YET"


def test_what_a_test_would_catch_is_told_of_a_file_that_tests() -> None:
    for paper in papers.papers().values():
        if paper.catches:
            file = ROOT / paper.test
            assert re.fullmatch(r"tests/(\w+/)*test_\w+\.py", paper.test), paper.id
            assert re.search(r"^def test_", file.read_text(encoding="utf-8"), flags=re.MULTILINE), paper.test


def test_no_two_papers_would_be_caught_by_the_same_words() -> None:
    """A line that would suit another row says nothing of this one: what is wrong, a colon, what notices it."""
    told = {paper.id: paper.catches for paper in papers.papers().values() if paper.catches}
    for key, line in told.items():
        wrong, colon, noticed = line.partition(": ")
        assert colon, key
        assert min(len(wrong), len(noticed)) >= 20, key
        assert len(line) <= 260, key
        assert line[-1] not in ".;:", key
    for (one, first), (other, second) in itertools.combinations(told.items(), 2):
        words, others = set(first.split()), set(second.split())
        if len(words & others) < 0.3 * min(len(words), len(others)):
            continue  # lines that are nearly the same have most words in common; to compare letters takes long
        pair = SequenceMatcher(None, first, second, autojunk=False)
        alike = pair.real_quick_ratio() > 0.65 and pair.quick_ratio() > 0.65 and pair.ratio() > 0.65
        assert not alike, f"{one} and {other} tell nearly the same"


def test_commands_of_papers_are_those_of_the_program() -> None:
    """Every one is read by the program's own parser, up to where it would begin to work."""
    program = typer.main.get_command(app)
    for paper in papers.papers().values():
        stands = standing.standing(paper)
        assert {name for _, name, _ in stands.commands} == set(stands.names), paper.id
        for kind, name, command in stands.commands:
            first, verb, *arguments = command.removesuffix(" …").split()
            assert first == "layersmith"
            context = program.commands[verb].make_context(
                verb, arguments, resilient_parsing=True
            )  # "…" stands for the rest
            assert name in {word for value in context.params.values() for word in _words(value)}, (kind, command)


def _words(value: object) -> list[str]:
    """The words of what was given for one option."""
    if isinstance(value, str):
        return value.split(",")
    return [word for each in value for word in _words(each)] if isinstance(value, (list, tuple)) else []


def test_what_lacks_something_of_a_paper_names_a_paper() -> None:
    for name, entry in catalogue.ENTRIES.items():
        assert entry.papers or not entry.missing, name
    for name in methods.METHODS:
        assert methods.get(name).papers or not methods.get(name).missing, name


PARTLY = """
2503.13440 2405.11582 2406.15786 scalable-neural-network-kernels 2304.02034 2305.14858 2405.12250 2410.23168
2310.14921 2506.06644 2501.17771 2511.14111 2601.21766 2402.05830 2101.03961 2411.12364 2310.02244 1905.10650
"""


@pytest.mark.parametrize("key", PARTLY.split())
def test_papers_of_which_something_is_missing_are_partly_there(key: str) -> None:
    stands = standing.standing(papers.papers()[key])
    lacks = [catalogue.entry(name).missing for name in stands.parts]
    lacks += [describe.method_missing(methods.get(name)) for name in stands.methods]
    assert any(lacks)


def test_numbers_of_a_plan_are_nowhere_to_be_seen() -> None:
    """Papers go by their arXiv ids: in what users read, and in what is installed."""
    number = re.compile(r"\bP\d{3}\b")
    folders = ("src", "docs", "benchmarks", "scripts")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    assert len(files) > 300
    for path in [*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        assert not number.search(path.read_text(encoding="utf-8")), path
    table = (ROOT / "src" / "layersmith" / "papers.toml").read_text(encoding="utf-8")
    assert not re.search(r"^(tier|status) =|planned", table, flags=re.MULTILINE)


SUFFIXES = {".py", ".md", ".toml", ".json"}


MALFORMED = [
    *({"kind": "poem"}, {"title": " "}, {"doi": "10/1"}, {"reason": ""}, {"test": "tests/test_x.py"}),
    *({"catches": "a: b"}, {"reason": "a survey", "test": "tests/test_x.py", "catches": "a: b"}),
]


@pytest.mark.parametrize("change", MALFORMED, ids=str)
def test_malformed_entries_are_refused(change: dict[str, str]) -> None:
    good = {"title": "T", "kind": "ffn", "mechanism": "M."}
    assert papers._paper("2401.00001", good).title == "T"
    with pytest.raises(ValueError, match=r"2401\.00001"):
        papers._paper("2401.00001", good | change)


def test_missing_fields_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2401\.00001"):
        papers._paper("2401.00001", {"title": "T"})
