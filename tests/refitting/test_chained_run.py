"""A whole run whose budget only a chain can meet: neither of its steps comes near, and both together do."""

import pytest

import layersmith
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama
from tests.refitting.whole_run import comparable, run

METHODS = ["width", "int8_dynamic"]
SITES = ["layers.*.ffn"]


def bytes_without(model, share):
    """Bytes of the model, as a share, when that share of its feed-forwards' bytes is left."""
    ffn = sum(p.numel() for layer in model.model.layers for p in layer.mlp.parameters())
    return 1 - (1 - share) * ffn / sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def chained(tmp_path_factory, text, tokenizer):
    # int8 leaves a quarter and some scales, the narrowest width an eighth; both together a twenty-fifth.
    budget = {"bytes": bytes_without(tiny_llama(layers=2), 0.07)}
    out = tmp_path_factory.mktemp("chained") / "run"
    options = {"budget": budget, "methods": METHODS, "sites": SITES, "heal_tokens": 2048, "effort": 0.05}
    return out, run(out, text, tokenizer, **options), options


def test_a_budget_that_only_a_chain_meets_is_met(chained):
    out, result, _ = chained
    chosen = result["chosen"]["candidates"]
    assert {name.split("/")[1] for name in chosen} == {"width+int8_dynamic"}
    assert len(chosen) == 2
    assert result.meets_budget
    built = [c for c in result["candidates"] if c["method"] == "width+int8_dynamic"]
    assert all(c["params"] is not None and c["bytes"] is not None for c in built)
    assert result["reload_max_abs_diff"] <= 1e-5
    page = (out / "report.html").read_text()
    assert "width+int8_dynamic" in page


def test_what_was_predicted_is_what_the_whole_model_costs(chained):
    _, result, _ = chained
    predicted, measured = result["chosen"]["predicted"], result["chosen"]["unhealed"]
    assert {k: predicted[k] for k in ("params", "bytes", "flops")} == {
        k: measured[k] for k in ("params", "bytes", "flops")
    }


def test_a_uniform_chain_is_a_baseline(chained):
    _, result, _ = chained
    by_label = {entry["label"]: entry for entry in result["uniform"]}
    assert by_label["width+int8_dynamic ffn"]["meets_budget"]
    assert not by_label["width ffn"]["meets_budget"]
    assert not by_label["int8_dynamic everywhere"]["meets_budget"]


def test_run_again_it_takes_what_is_there(chained, text, tokenizer):
    out, result, options = chained
    made = {p: p.stat().st_mtime_ns for p in (out / "workspace" / "library").rglob("*+*/*")}
    assert made
    again = run(out, text, tokenizer, **options)
    assert comparable(again) == comparable(result)
    assert {p: p.stat().st_mtime_ns for p in (out / "workspace" / "library").rglob("*+*/*")} == made
    identity = Workspace.joined(out).identity()
    assert identity["settings"]["methods"] == [*METHODS, "width+int8_dynamic"]


@pytest.mark.real
def test_pocket_meets_a_budget_that_only_a_chain_can_meet(tmp_path):
    methods = ["width", "int8_dynamic"]
    result = layersmith.refit(
        "pocket", budget={"bytes": 0.36}, out=tmp_path / "run", methods=methods, effort=0.1, heal_tokens=8192
    )
    assert result.meets_budget
    used = {name.split("/")[1] for name in result["chosen"]["candidates"]}
    assert "width+int8_dynamic" in used
    reach = {entry["label"]: entry["meets_budget"] for entry in result["uniform"]}
    assert not reach["width ffn"]
    assert not reach["int8_dynamic everywhere"]
    assert result["heal"] is not None
