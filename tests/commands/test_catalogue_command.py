"""`layersmith catalogue` and `layersmith show`: what they print, and what they say to a mistake."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from layersmith import catalogue as table
from layersmith import evidence
from layersmith.commands.catalogue import catalogue, show


def run(command, *arguments: str):  # type: ignore[no-untyped-def]
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_catalogue_lists_every_part() -> None:
    text = run(catalogue)
    for name in table.ENTRIES:
        assert f" {name} " in text


def test_catalogue_json_holds_name_family_papers_and_evidence_of_every_part() -> None:
    data = json.loads(run(catalogue, "--json"))
    assert [p["name"] for p in data["parts"]] == list(table.ENTRIES)
    for part in data["parts"]:
        assert part.keys() >= {"name", "family", "papers", "evidence", "summary", "stands_at"}
    assert len(data["papers"]) == 404


def test_a_query_searches_parts_and_papers() -> None:
    text = run(catalogue, "delta rule")
    assert "deltanet" in text
    assert "P028" in text
    assert "softmax_attention" not in text
    assert "P084" in run(catalogue, "butterfly")


def test_a_query_without_an_answer_says_so() -> None:
    with pytest.raises(ValueError, match="No part and no paper"):
        run(catalogue, "no-such-mechanism")


@pytest.mark.parametrize("name", table.ENTRIES)
def test_show_tells_idea_papers_evidence_cost_and_example_of_every_part(name: str) -> None:
    text = run(show, name)
    assert table.documentation(name).splitlines()[0] in text
    for heading in ("Arguments", "Stands at", "Evidence", "Cost", "Example"):
        assert heading in text
    for key in table.entry(name).papers:
        assert key in text


def test_show_costs_the_asked_size() -> None:
    text = run(show, "glu", "--d-model", "64", "--tokens", "10", "--batch", "2")
    assert '"d_model": 64, "d_hidden": 128' in text
    assert f"{3 * 64 * 128:,}" in text
    assert f"{2 * 20 * 3 * 64 * 128:,}" in text
    wider = run(show, "glu", "--d-model", "64", "--config", '{"d_hidden": 100}')
    assert f"{3 * 64 * 100:,}" in wider


def test_show_puts_the_dense_parts_of_the_same_widths_beside_the_part() -> None:
    text = run(show, "gr_kan", "--d-model", "64")
    assert "mlp (d_model 64, d_hidden 128)" in text
    assert f"{3 * 64 * 128:,}" in text.partition("glu (d_model 64, d_hidden 128)")[2]


def test_show_tells_which_method_builds_the_part_and_when_that_pays() -> None:
    text = run(show, "softmax_attention")
    assert "refit MODEL --methods kv_merge" in text
    assert "when it pays: The key-value cache shrinks by the factor merged" in text
    assert "Built by" not in run(show, "identity")


def test_show_of_a_paper_tells_its_mechanism_and_where_it_stands() -> None:
    text = run(show, "p007")
    for told in ("Polynomial Composition", "2411.03884", "learned polynomial", "part:poly_norm", "show poly_relu"):
        assert told in text
    assert "refit MODEL --methods poly_norm" in text
    assert "not planned: survey" in run(show, "P003")


def test_show_tells_comparisons_and_claims_with_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "comparisons": [
            {"source": "github:a/b@1", "compared": "outputs", "max_abs_diff": 2e-3, "tolerance": 1e-6, "file": "o.json"}
        ],
        "claims": [
            {"paper": "P034", "claim": "better", "verdict": "partly", "measured": "by 3% [sic]", "file": "c.json"}
        ],
    }
    record = {"parts": evidence.record()["parts"] | {"gr_kan": found}}
    monkeypatch.setattr(evidence, "record", lambda: record)
    for text in (run(show, "gr_kan"), run(show, "P034")):
        assert "partly" in text
        assert "measured: by 3% [sic] (c.json)" in text
    assert "NOT EQUAL to github:a/b@1: differs by 2.0e-03 at most, 1e-06 allowed" in run(show, "gr_kan")


def test_papers_are_listed_without_a_query_when_asked_for() -> None:
    assert "P404" in run(catalogue, "--papers")
    assert "P404" not in run(catalogue)
    assert "P034" in run(catalogue, "2409.10594")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gr_can"], "gr_kan"),
        (["P999"], "P001 to P404"),
        (["glu", "--config", "{"], "not JSON"),
        (["glu", "--config", '{"d_hiden": 3}'], "d_hiden"),
        (["glu", "--d-model", "0"], "at least 1"),
    ],
)
def test_mistakes_get_one_readable_paragraph(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(show, *arguments)
