"""The catalogue: names, files, families and summaries agree; wrong names and specs get a helpful message."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from layersmith import catalogue
from layersmith.errors import UserError
from layersmith.papers import papers


@pytest.mark.parametrize("name", catalogue.ENTRIES)
def test_entry_agrees_with_its_class(name: str) -> None:
    entry = catalogue.entry(name)
    part = catalogue.resolve(name)
    assert (part.name, part.family) == (name, entry.family)
    assert part.__module__.split(".")[1] == entry.family
    assert catalogue.build({"name": name, **entry.example}).spec().items() >= entry.example.items()
    assert all(key in papers() for key in entry.papers)


@pytest.mark.parametrize("name", catalogue.ENTRIES)
def test_documentation_states_idea_shapes_and_paper(name: str) -> None:
    text = catalogue.documentation(name)
    for heading in ("Shapes?:", "Papers?:", "Differs from the papers?:"):
        assert re.search(f"^{heading}", text, flags=re.MULTILINE), heading
    assert catalogue.summary(name).endswith(".")
    assert len(catalogue.summary(name)) <= 150


def test_no_class_stands_under_two_names() -> None:
    targets = [entry.target for entry in catalogue.ENTRIES.values()]
    assert len(targets) == len(set(targets))


def test_importing_the_catalogue_imports_no_operator() -> None:
    code = (
        "import sys; from layersmith import catalogue; catalogue.as_json(); "
        "rooms = [f'layersmith.{r}.' for r in ('ffn', 'mixer', 'norm', 'block', 'linear')]; "
        "sys.exit(any(m.startswith(tuple(rooms)) for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="'gr_kan'"):
        catalogue.resolve("gr_can")


def test_code_of_the_users_own_needs_trust_and_must_be_an_operator() -> None:
    with pytest.raises(UserError, match="trust"):
        catalogue.resolve("torch.nn:Linear")
    with pytest.raises(UserError, match="not an operator class"):
        catalogue.resolve("torch.nn:Linear", trust_remote_code=True)
    with pytest.raises(UserError, match="no_such_module"):
        catalogue.resolve("no_such_module:Part", trust_remote_code=True)


def test_specs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="'name'"):
        catalogue.build({"d_model": 8})
    with pytest.raises(UserError, match="d_hiden"):
        catalogue.build({"name": "glu", "d_model": 8, "d_hidden": 8, "d_hiden": 8})
    with pytest.raises(UserError, match="d_hidden must be a positive integer"):
        catalogue.build({"name": "glu", "d_model": 8, "d_hidden": 0})


def test_as_json_holds_what_the_listing_shows() -> None:
    records = {record["name"]: record for record in catalogue.as_json()}
    assert list(records) == list(catalogue.ENTRIES)
    record = records["gr_kan"]
    assert record["kind"] == "ffn"
    assert record["papers"][0]["arxiv"] == "2409.10594"
    assert record["papers"][0]["title"] == "Kolmogorov-Arnold Transformer"
    assert record["state"] == {"is": "working"}
    assert records["spark_attention"]["state"]["is"] == "partly"
    assert "chosen keys" in records["spark_attention"]["state"]["missing"]
    assert "ffn" in record["stands_at"]
    assert 0 <= record["evidence"]["level"] <= 4
