"""The figures in the README's tables are those of the committed records: each a rounding of one measured."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"
MODEL = "SmolLM2-135M-Instruct.Q4_1"

#: What each row beside other libraries is about, in the order of its figures.
PEERS = {
    "the original in torch": ["original"],
    "`model.bfloat16()`": ["model.bfloat16()"],
    "five lines of int8 by `torch._int_mm`": ["five lines: int8 by torch._int_mm"],
    "torch `quantize_dynamic`": ["torch quantize_dynamic"],
    "torchao, int8 on float32 / int8 weights on bf16": ["torchao w8a8 on fp32", "torchao int8 weights on bf16"],
    "onnxruntime, float32 / dynamic int8": ["onnxruntime fp32", "onnxruntime dynamic int8"],
    "OpenVINO, its defaults (bf16) / with NNCF's int8 weights": [
        "OpenVINO, its defaults",
        "OpenVINO + NNCF int8 weights",
    ],
    "llama.cpp, F32 / BF16": ["llama.cpp F32", "llama.cpp BF16"],
    "llama.cpp, Q8_0 / Q4_1": ["llama.cpp Q8_0", "llama.cpp Q4_1"],
    "`layersmith refit --budget latency=0.75`, at prefill": ["layersmith prefill-0.75x"],
    "the same at decode": ["layersmith decode-0.75x"],
}
#: How a row of the table of what works begins -> the record that it names, and the shape of its figures.
REFITS = {
    "| SmolLM2-135M at 0.75x latency, prefill 1x512": (f"refit_quality-{MODEL}.gguf", "prefill=1x512"),
    "| the same at decode 1x128": (f"refit_quality-{MODEL}.gguf", "decode=1x128"),
    "| exact rewrites (`fused_attention`": (f"decode-{MODEL}", "decode=1x128"),
    "| the same rewrites in few bits": (f"decode-{MODEL}", "decode=1x128"),
}


def record(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rounds_to(measured: str, shown: str) -> bool:
    """Whether the text shown is the measured number in as many digits as it has."""
    digits = len(shown.partition("e")[0].partition(".")[2])
    value = float(measured)
    if "e" in shown:
        return f"{value:.{digits}e}" == f"{float(shown):.{digits}e}"
    return abs(float(shown) - value) <= 0.5 * 10**-digits + 1e-12


def peers() -> dict[str, list[str]]:
    """The rows beside other libraries: label -> cells."""
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith("| ")]
    start = next(i for i, row in enumerate(rows) if row[0].startswith("the original in torch"))
    table = {row[0]: row[1:] for row in rows[start : start + len(PEERS)]}
    assert list(table) == list(PEERS)
    return table


@pytest.mark.parametrize("label", PEERS)
def test_rows_beside_other_libraries_are_the_record(label: str) -> None:
    measured = {row["variant"]: row for row in record(f"peers-{MODEL}")}
    rows = [measured[variant] for variant in PEERS[label]]
    cells = [cell.replace("**", "").strip(" |") for cell in peers()[label]]
    for phase, cell in zip(("prefill", "decode"), cells, strict=False):
        shown = re.findall(r"([\d.]+)x", cell)
        ratios = [row[f"{phase}_ratio"] for row in rows]
        if cell == "no cache in the graph":
            assert not any(ratios)
            continue
        assert len(shown) == len(rows)
        assert all(rounds_to(*pair) for pair in zip(ratios, shown, strict=True)), (phase, ratios, shown)
        for row, ms in zip(rows, re.findall(r"\(([\d.]+) ms\)", cell), strict=False):
            assert rounds_to(row[f"{phase}_ms"], ms)
    shown = cells[2].split(" / ") if len(cells) > 2 and cells[2] else ["0"]
    assert all(rounds_to(row["kl"], kl) for row, kl in zip(rows, shown, strict=True)), (label, shown)


@pytest.mark.parametrize("start", REFITS)
def test_ratios_of_a_refit_are_in_the_record_that_its_row_names(start: str) -> None:
    (line,) = [line for line in README.splitlines() if line.startswith(start)]
    name, shape = REFITS[start]
    measured = [row["latency_ratio"] for row in record(name) if row["at"] == shape and row["latency_ratio"]]
    assert measured
    shown = re.findall(r"(\d+\.\d+)x", line.partition("|")[2].partition("|")[2])  # its first cell is what was asked for
    assert shown
    assert [ratio for ratio in shown if not any(rounds_to(m, ratio) for m in measured)] == []


def test_a_rounding_is_told_from_another_number() -> None:
    assert rounds_to("0.727967", "0.728")
    assert not rounds_to("0.727967", "0.727")
    assert rounds_to("4.5313e-09", "5e-9")
    assert not rounds_to("4.4e-09", "5e-9")
    assert rounds_to("1.0697", "1.1")
    assert not rounds_to("1.0697", "1.0")
