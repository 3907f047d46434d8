"""The table of source papers: complete, well-formed, and in step with catalogue and methods."""

from __future__ import annotations

import pytest

from layersmith import catalogue, papers
from layersmith.papers import Paper
from layersmith.refitting import methods


def test_all_papers_are_there() -> None:
    assert list(papers.papers()) == [f"P{n:03}" for n in range(1, 405)]


def test_titles_and_mechanisms_are_sentences_of_their_own() -> None:
    table = papers.papers().values()
    assert len({p.title for p in table}) == len({p.mechanism for p in table}) == 404
    for paper in table:
        assert paper.mechanism.endswith("."), paper.id
        assert len(paper.mechanism) <= 200, paper.id


def test_arxiv_ids_are_unique_and_shaped_like_ids() -> None:
    known = [p.arxiv for p in papers.papers().values() if p.arxiv]
    assert len(known) == len(set(known))
    for paper in papers.papers().values():
        if paper.arxiv:
            year_month, _, number = paper.arxiv.partition(".")
            assert len(year_month) == 4
            assert len(number) == (5 if year_month >= "1501" else 4), paper.id
            assert paper.link == f"https://arxiv.org/abs/{paper.arxiv}"


@pytest.mark.parametrize(("arxiv", "year"), [("1207.0580", 2012), ("2409.10594", 2024), (None, None)])
def test_year_is_read_from_the_arxiv_id(arxiv: str | None, year: int | None) -> None:
    assert Paper("P000", "t", "ffn", "A", "m.", "planned", arxiv).year == year


def test_unplanned_papers_say_why_and_only_those_that_cannot_be_built() -> None:
    for paper in papers.papers().values():
        assert paper.status.startswith("not planned: ") == (paper.tier == "X"), paper.id


def test_papers_of_the_catalogue_stand_as_parts_or_methods() -> None:
    for name, entry in catalogue.ENTRIES.items():
        for key in entry.papers:
            assert papers.papers()[key].status.partition(":")[0] in ("part", "method"), (name, key)


def test_status_names_exist_and_name_the_paper() -> None:
    for paper in papers.papers().values():
        kind, _, name = paper.status.partition(":")
        if kind == "part":
            assert paper.id in catalogue.entry(name).papers, paper.id
        if kind == "method":
            assert paper.id in methods.get(name).papers, paper.id


def test_papers_of_methods_stand_as_methods_or_parts() -> None:
    for name in methods.METHODS:
        for key in methods.get(name).papers:
            assert papers.papers()[key].status.partition(":")[0] in ("part", "method"), (name, key)


def test_search_wants_every_word() -> None:
    assert [p.id for p in papers.search("butterfly permutations")] == ["P084"]
    assert papers.search("butterfly nonsense") == []
    assert len(papers.search("")) == 404


@pytest.mark.parametrize(
    "change",
    [{"status": "soon"}, {"status": "part:"}, {"tier": "Z"}, {"kind": "poem"}, {"title": " "}, {"doi": "10/1"}],
    ids=str,
)
def test_malformed_entries_are_refused(change: dict[str, str]) -> None:
    good = {"title": "T", "kind": "ffn", "tier": "A", "mechanism": "M.", "status": "planned"}
    assert papers._paper("P001", good).title == "T"
    with pytest.raises(ValueError, match="P001"):
        papers._paper("P001", good | change)


def test_missing_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="P001"):
        papers._paper("P001", {"title": "T"})
