"""`layersmith report`: the page is drawn from result.json alone, which stays as it is."""

import json
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.report.results import make_result


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    result = make_result()
    result["settings"]["at"] = "prefill=1x512"
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return tmp_path


def test_the_page_is_drawn_again(run: Run, finished: Path) -> None:
    before = (finished / "result.json").read_bytes()
    status, out, _ = run("report", str(finished))
    assert (status, out.strip()) == (0, str(finished / "report.html"))
    plain = (finished / "report.html").read_text()
    assert "mark beside" not in plain
    peers = finished / "peers.csv"
    peers.write_text("variant,kl,prefill_ratio,prefill_at\nbf16,0.01,0.4,prefill=1x512\n", encoding="utf-8")
    status, out, _ = run("report", str(finished), "--beside", str(peers), "--json")
    assert status == 0
    assert json.loads(out)["beside"]["models"] == [
        {"name": "bf16", "measured": {"latency_ratio": 0.4, "divergence": 0.01}}
    ]
    assert "mark beside" in (finished / "report.html").read_text()
    assert (finished / "result.json").read_bytes() == before


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": "another/1"}'])
def test_a_folder_without_a_result_is_refused(run: Run, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content, encoding="utf-8")
    status, _, err = run("report", str(tmp_path))
    assert status == 2
    assert "result.json" in err
    assert not (tmp_path / "report.html").exists()
