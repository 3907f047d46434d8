"""Other tools' models in the Pareto chart: the right rows at the right places, and what is told of those left out."""

from pathlib import Path

import pytest

from layersmith import report
from layersmith.errors import UserError
from layersmith.report import beside, pareto, words

from .charts import marks
from .results import make_result
from .test_pareto import places

HEADER = (
    "variant,missing,version,kl,agreement,data,prefill_missing,prefill_ratio,prefill_at,decode_missing,decode_ratio"
)
ROWS = f"""{HEADER},decode_at,cpu,instruction_sets,threads
original,,torch 2,0,1,text.txt,,1,prefill=1x512,,1,decode=1x128,EPYC,"['avx2', 'avx512f']",2
bf16,,torch 2,0.001,0.96,text.txt,,0.40,prefill=1x512,,0.64,decode=1x128,EPYC,"['avx2', 'avx512f']",2
graph,,ort 1,0.5,0.7,text.txt,,0.24,prefill=1x512,no cache,,,EPYC,"['avx2', 'avx512f']",2
absent,not installed,,,,text.txt,,,,,,,EPYC,"['avx2', 'avx512f']",2
"""


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    file = tmp_path / "peers.csv"
    file.write_text(ROWS, encoding="utf-8")
    return file


def result_at(at: str, **kind: object) -> dict:
    result = make_result(**kind)
    result["settings"]["at"] = at
    return result


def test_each_model_stands_at_its_ratio_and_divergence(peers):
    result = result_at("prefill=1x512")
    result["beside"] = beside.read(peers, result)
    drawn = pareto.draw(result)
    assert places(drawn, "beside") == [pytest.approx((0.40, 0.001), rel=0.01), pytest.approx((0.24, 0.5), rel=0.01)]
    assert [mark.get("data-tip").splitlines()[0] for mark in marks(drawn, "beside")] == [
        "beside: bf16 (torch 2)",
        "beside: graph (ort 1)",
    ]
    assert "other tools" in str(drawn)


def test_the_figures_are_those_of_the_shape_of_the_refit(peers):
    result = result_at("decode=1x128")
    found = beside.read(peers, result)
    assert [(one["name"], one["measured"]["latency_ratio"]) for one in found["models"]] == [("bf16 (torch 2)", 0.64)]
    assert found["left_out"] == [
        {"name": "graph", "reason": "no cache"},
        {"name": "absent", "reason": "not installed"},
    ]


def test_the_page_tells_where_they_were_measured_and_who_is_missing(peers):
    result = result_at("decode=1x128")
    assert words.beside(result) is None
    assert "other tools" not in report.render(result)
    result["beside"] = beside.read(peers, result)
    page = str(report.render(result)).replace("\xa0", " ")
    assert "EPYC (avx2, avx512f) with 2 threads on the text text.txt" in page
    assert "not drawn for want of figures: graph (no cache), absent (not installed)." in page


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no row"),
        ("variant,kl\nbf16,0.1\n", "lacks the column 'prefill_ratio', 'prefill_at'"),
        (ROWS.replace("1x512", "1x64"), "measured at prefill=1x64, and this refit at prefill=1x512"),
        (ROWS.replace("0.40", "fast"), "Line 3 of .*'fast' is not a number"),
        (ROWS.replace("0.40", "nan"), "'nan' is not a number"),
        ("\n".join(ROWS.splitlines()[:2]), "holds no model"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, content, says):
    file = tmp_path / "peers.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        beside.read(file, result_at("prefill=1x512"))


def test_a_chart_without_latency_or_kl_takes_none(peers, tmp_path):
    with pytest.raises(UserError, match="drawn over params"):
        beside.read(peers, result_at("prefill=1x512", budget="params"))
    with pytest.raises(UserError, match="relative squared error"):
        beside.read(peers, result_at("prefill=1x512", encoder=True))
    with pytest.raises(UserError, match="Only the report of a refit"):
        beside.read(peers, {"schema": "layersmith.race/1"})
    with pytest.raises(UserError, match="could not be read as a CSV file"):
        beside.read(tmp_path, result_at("prefill=1x512"))
