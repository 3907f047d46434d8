"""What `layersmith show` and the documentation tell of parts, methods and papers."""

from __future__ import annotations

import pytest

from layersmith import catalogue, describe, standing
from layersmith.errors import UserError
from layersmith.evidence import Outcomes
from layersmith.papers import papers
from layersmith.refitting import methods


def test_a_method_tells_what_it_needs_and_when_a_run_tries_it() -> None:
    assert describe.offered(methods.get("gptq")) == "for a budget of bytes"
    assert describe.offered(methods.get("topk")) == "for a budget of flops or latency"
    assert describe.offered(methods.get("heads")) == "only when named"
    assert describe.needs(methods.get("rtn")) == "weight matrices; the weights alone"
    assert describe.needs(methods.get("width_taylor")).endswith("one backward pass per batch")
    assert describe.needs(methods.get("mean")) == "reads what leaves the sublayer"


def test_sizes_grow_with_the_width_and_given_arguments_stand_over_them() -> None:
    spec = describe.spec_of("carved_moe", 64, {"k": 3})
    assert spec == {"name": "carved_moe", "d_model": 64, "d_expert": 16, "n_shared": 2, "n_routed": 6, "k": 3}
    assert describe.spec_of("linear", 64) == {"name": "linear", "d_in": 64, "d_out": 96}
    with pytest.raises(UserError, match="at least 1"):
        describe.spec_of("glu", 0)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("carved_moe", ["carved_moe", "mlp (d_model 32, d_hidden 64)", "glu (d_model 32, d_hidden 64)"]),
        ("affine", ["affine", "mlp (d_model 32, d_hidden 128)", "glu (d_model 32, d_hidden 128)"]),
        ("mlp", ["mlp", "glu (d_model 32, d_hidden 64)"]),
        ("dyt", ["dyt", "layer_norm (d_model 32)", "rms_norm (d_model 32)"]),
        ("low_rank", ["low_rank", "linear (d_in 32, d_out 48)"]),
        ("deltanet", ["deltanet", "softmax_attention (d_model 32, n_heads 4)"]),
    ],
)
def test_a_part_stands_beside_the_usual_ones_of_its_widths(name: str, beside: list[str]) -> None:
    part = catalogue.build(describe.spec_of(name))
    rows = list(describe.cost_table(part, 1, 4))
    assert [label for label, _ in rows] == beside
    assert rows[0][1][3] == part.cost(1, 4).flops


@pytest.mark.parametrize("name", catalogue.ENTRIES)
def test_the_example_runs_and_builds_the_part_described(name: str) -> None:
    part = catalogue.build(describe.spec_of(name))
    code = describe.example(part)
    scope: dict[str, object] = {}
    exec(compile(code, name, "exec"), scope)  # noqa: S102  our own text, which people will paste
    assert scope["part"].spec() == part.spec()
    assert scope["y"].shape[:2] == (2, 16)


def test_runs_of_one_test_are_counted_and_records_are_not_tests() -> None:
    outcomes = Outcomes(passed=("t.py::a[1]", "t.py::a[2]", "benchmarks/results/official/x.json"), failed=("t.py::b",))
    assert describe.tests(outcomes) == [("passed", "t.py::a", 2), ("FAILED", "t.py::b", 1)]


def test_a_paper_stands_with_every_part_and_method_that_names_it() -> None:
    stands = standing.standing(papers()["2411.03884"])
    assert {"poly_norm", "poly_relu"} <= set(stands.parts)
    assert "poly_norm" in stands.methods
    survey = papers()["survey-techniques-optimizing-transformer-inference"]
    assert standing.standing(survey).nowhere
    assert standing.reason(survey) == "survey"
    assert standing.standing(papers()["2305.14858"]).folds == ("pre_rms_norm",)


def test_a_method_lacks_what_it_says_and_what_its_parts_lack() -> None:
    assert "second stage" in describe.method_as_json("width")["state"]["missing"]
    assert describe.method_as_json("relu_attention")["state"] == {
        "is": "partly",
        "missing": catalogue.entry("relu_attention").missing,
    }
    assert describe.method_as_json("gptq")["state"] == {"is": "working"}
