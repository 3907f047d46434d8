"""`layersmith catalogue` and `layersmith show`: what they print, and what they say to a mistake."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from layersmith import catalogue as table
from layersmith import evidence
from layersmith.commands.catalogue import catalogue
from layersmith.commands.show import show
from layersmith.explaining.constructions import CONSTRUCTIONS
from layersmith.explaining.tools import TOOLS
from layersmith.papers import papers
from layersmith.racing.optimizers import OPTIMIZERS
from layersmith.racing.tasks import TASKS
from layersmith.refitting import methods as methods_table
from layersmith.refitting.heal.adapters import ADAPTERS
from layersmith.refitting.prove.folds import FOLDS


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


def test_catalogue_json_holds_every_part_method_fold_and_paper() -> None:
    data = json.loads(run(catalogue, "--json"))
    assert [p["name"] for p in data["parts"]] == list(table.ENTRIES)
    assert [m["name"] for m in data["methods"]] == list(methods_table.METHODS)
    assert [f["name"] for f in data["folds"]] == list(FOLDS)
    assert [a["name"] for a in data["adapters"]] == list(ADAPTERS)
    assert [c["name"] for c in data["constructions"]] == list(CONSTRUCTIONS)
    assert [t["name"] for t in data["tools"]] == list(TOOLS)
    assert [t["name"] for t in data["tasks"]] == list(TASKS)
    assert [o["name"] for o in data["optimizers"]] == list(OPTIMIZERS)
    assert [p["id"] for p in data["papers"]] == list(papers())
    for part in data["parts"]:
        assert part.keys() >= {"name", "kind", "papers", "evidence", "summary", "stands_at", "state"}
    for method in data["methods"]:
        assert method.keys() >= {"name", "kind", "state", "evidence", "papers", "default", "when_it_pays"}
    for one in [*data["parts"], *data["methods"], *data["folds"]]:
        assert one["state"]["is"] == ("partly" if one["state"].get("missing") else "working")
        for paper in one["papers"]:
            assert papers()[paper["id"]].title == paper["title"]
            assert paper["arxiv"] in (paper["id"], None)
    for paper in data["papers"]:
        kinds = ("parts", "methods", "folds", "adapters", "constructions", "tools", "tasks", "optimizers")
        assert bool(paper["reason"]) != any(paper[kind] for kind in kinds)
        assert bool(paper["catches"]) == bool(paper["test"])
        assert [one["name"] for one in paper["commands"]] == [name for kind in kinds for name in paper[kind]]


def test_words_need_no_quotes_and_the_answer_fits_on_a_screen() -> None:
    text = run(catalogue, "linear", "attention")
    assert "linear_attention" in text.splitlines()[3]
    assert len(text.splitlines()) <= 28
    assert "tier" not in text
    assert "planned" not in text
    assert len(run(catalogue, "feed-forward").splitlines()) <= 28


def test_names_stay_readable_in_a_narrow_terminal() -> None:
    app = typer.Typer()
    app.command()(catalogue)
    text = CliRunner().invoke(app, ["prune", "heads"], env={"COLUMNS": "80"}).output
    assert "heads" in text.splitlines()[3]
    assert "method" in text.splitlines()[3]
    assert all(len(line) <= 80 for line in text.splitlines()[:5])


def test_a_search_shows_what_can_be_run_and_papers_when_asked() -> None:
    text = run(catalogue, "delta", "rule")
    assert "deltanet" in text
    assert "softmax_attention" not in text
    assert "Parallelizing Linear Transformers" not in text
    assert "2406.06484" in run(catalogue, "delta", "rule", "--papers")
    data = json.loads(run(catalogue, "prune", "heads", "--json"))
    assert "heads" in [method["name"] for method in data["methods"]]
    assert "gptq" not in [method["name"] for method in data["methods"]]


def test_where_nothing_can_be_run_the_papers_are_shown() -> None:
    assert "CarCrashNet" in run(catalogue, "structural", "crash", "simulation")
    assert "gradient_descent" in run(catalogue, "in-context", "learning", "as", "gradient", "descent")


def test_a_query_without_an_answer_says_so() -> None:
    with pytest.raises(ValueError, match="Nothing in the catalogue mentions"):
        run(catalogue, "nosuchmechanism")


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
    text = run(show, "2411.03884")
    for told in (
        "Polynomial Composition",
        "learned polynomial",
        "part         poly_norm",
        "layersmith check poly_relu",
    ):
        assert told in text
    assert "refit MODEL --methods poly_norm" in text
    for told in ("Tested in  tests/ffn/test_poly.py", "Catches    powers normalised over tokens"):
        assert told in text
    assert "Catches" not in run(show, "survey", "of", "techniques", "for", "optimizing")
    assert "nothing: survey" in run(show, "survey", "of", "techniques", "for", "optimizing")
    assert "Simplifying Transformer Blocks" in run(show, "simplified", "transformer", "blocks")


def test_show_of_a_method_and_of_a_fold_tells_what_it_needs_and_when_it_pays() -> None:
    text = run(show, "heads")
    for told in (
        "Remove attention heads",
        "more than one query head",
        "only when named",
        "2302.04089",
        "--methods heads",
    ):
        assert told in text
    text = run(show, "rep_bn")
    for told in (
        "finished batch norm",
        "no norm is left to compute",
        "tried on the result",
        "2405.11582",
        "FOLDS['rep_bn']",
    ):
        assert told in text


@pytest.mark.parametrize("name", ADAPTERS)
def test_show_of_an_adapter_tells_what_is_trained_and_how_to_heal_by_it(name: str) -> None:
    told = run(show, name)
    assert f"--heal-adapter {name}" in told
    if name not in table.ENTRIES:  # of a part that is trained as an adapter, the part is told of
        record = json.loads(run(show, name, "--json"))
        assert f"{name} · adapter" in told
        assert f"{record['rate']:g} times" in told
        assert record["summary"]
        assert all(paper["id"] in told for paper in record["papers"])


def test_show_says_what_of_its_papers_a_part_lacks() -> None:
    assert "partly: without products for the chosen keys alone" in run(show, "spark_attention")
    assert "State      working" in run(show, "gr_kan")
    assert "second stage" in run(show, "width")


def test_evidence_of_an_earlier_file_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "earlier version" not in run(show, "glu")
    monkeypatch.setattr(evidence, "fingerprint", lambda part: "another")
    assert "earlier version" in run(show, "glu")


def test_show_tells_comparisons_and_claims_with_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "comparisons": [
            {"source": "github:a/b@1", "compared": "outputs", "max_abs_diff": 2e-3, "tolerance": 1e-6, "file": "o.json"}
        ],
        "claims": [
            {"paper": "2409.10594", "claim": "better", "verdict": "partly", "measured": "by 3% [sic]", "file": "c.json"}
        ],
    }
    record = evidence.record
    monkeypatch.setattr(evidence, "record", lambda part: found if part == "gr_kan" else record(part))
    for text in (run(show, "gr_kan"), run(show, "2409.10594")):
        assert "partly" in text
        assert "measured: by 3% [sic] (c.json)" in text
    assert "NOT EQUAL to github:a/b@1: differs by 2.0e-03 at most, 1e-06 allowed" in run(show, "gr_kan")
    assert "compared: outputs" in run(show, "gr_kan")


def test_papers_are_listed_without_a_query_when_asked_for() -> None:
    text = run(catalogue, "--papers")
    assert "2409.10594" in text
    assert "Convolutional LSTM Networks" in text
    assert "2409.10594" not in run(catalogue)
    assert "2409.10594" in run(catalogue, "2409.10594", "--papers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gr_can"], "gr_kan"),
        (["2305.14735"], "No paper of arXiv id"),
        (["glu", "--config", "{"], "not JSON"),
        (["glu", "--config", '{"d_hiden": 3}'], "d_hiden"),
        (["glu", "--d-model", "0"], "at least 1"),
    ],
)
def test_mistakes_get_one_readable_paragraph(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(show, *arguments)


def test_show_gives_one_record_as_json_at_the_sizes_asked_for() -> None:
    part = json.loads(run(show, "glu", "--json", "--d-model", "64"))
    assert part["kind"] == "ffn"
    assert part["spec"] == {"name": "glu", "d_model": 64, "d_hidden": 128, "act": "silu", "bias": False}
    assert part["cost"]["params"] == 3 * 64 * 128
    assert json.loads(run(show, "heads", "--json"))["kind"] == "prune"
    for name in ("parity", "dictionary", "recall", "pre_rms_norm", "2311.10770", "depth_mup"):
        assert {"name", "title"} & json.loads(run(show, name, "--json")).keys()


def test_sizes_of_what_is_no_part_are_refused() -> None:
    with pytest.raises(ValueError, match="'heads' is a method"):
        run(show, "heads", "--d-model", "64")


@pytest.mark.parametrize("name", ["gr_can", "widths", "dictionery"])
def test_a_slip_is_answered_before_anything_heavy_is_imported(name: str) -> None:
    code = (
        "import sys\nfrom layersmith.commands.show import show\n"
        f"try:\n    show([{name!r}])\nexcept ValueError as e:\n    print(e)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Did you mean" in done.stdout
    assert done.stdout.strip().endswith("[]")
