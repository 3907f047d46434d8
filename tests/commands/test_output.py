"""What sites, measure and refit print: tables, JSON, spreads, and a missed budget."""

import json
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layersmith.commands.options import parse_budget
from layersmith.errors import UserError
from layersmith.refitting.options import RefitConfig
from tests.commands.conftest import Run


def _tiny(_: str = "") -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=64, num_key_value_heads=2, **sizes))
    return model, None


def test_sites_as_a_table_and_as_json(run: Run, loads: Any) -> None:
    loads(_tiny)
    status, out, _ = run("sites", "pocket", "--at", "prefill=1x16", "--rounds", "2")
    assert status == 0
    assert "layers.1.ffn" in out
    assert "2 x 48x32, 32x48" in out

    status, out, _ = run("sites", "pocket", "--at", "prefill=1x16", "--rounds", "2", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["schema"] == "layersmith.sites/1"
    assert found["at"] == "prefill=1x16"
    ffn = next(site for site in found["sites"] if site["name"] == "layers.0.ffn")
    assert (ffn["kind"], ffn["params"]) == ("ffn", 3 * 32 * 48)
    assert 0 < ffn["flops_share"] < 1
    assert 0 < ffn["latency_ms_spread"][0] <= ffn["latency_ms"] <= ffn["latency_ms_spread"][1]
    assert found["totals"]["ffn"]["sites"] == 2
    assert found["totals"]["ffn"]["params"] == 2 * 3 * 32 * 48
    both = [site["latency_share"] for site in found["sites"] if site["kind"] == "ffn"]
    assert found["totals"]["ffn"]["latency_share"] == sum(both)


def test_sites_shows_spreads_and_totals_and_warns_of_few_rounds(run: Run, loads: Any) -> None:
    loads(_tiny)
    _, few, _ = run("sites", "pocket", "--at", "prefill=1x16", "--rounds", "2")
    assert "warning: 2 rounds of timing" in few
    assert re.search(r"all 2 +│ ffn .* 9,216 ", few)
    row = next(line for line in few.splitlines() if "layers.1.ffn " in line)
    assert re.search(r"\d\.\d{3}–\d+\.\d{3}", row)
    _, enough, _ = run("sites", "pocket", "--at", "prefill=1x16", "--rounds", "10")
    assert "warning" not in enough


def test_measure_as_a_table_and_as_json(run: Run, loads: Any) -> None:
    loads(_tiny)
    shapes = ["--at", "prefill=1x16,decode=1x16", "--windows", "2", "--rounds", "2", "--data", "random"]
    status, out, _ = run("measure", "pocket", "--against", "pocket", *shapes)
    assert status == 0
    assert "decode=1x16 latency, ms" in out
    assert "decode=1x16 middle half, ms" in out
    assert "warning: 2 rounds of timing" in out
    assert "divergence from the original, nats per token: 0.00000 · same next token: 100.0%" in out

    status, out, _ = run("measure", "pocket", *shapes, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["comparison"] is None
    assert set(found["model"]["at"]) == {"prefill=1x16", "decode=1x16"}


def test_measure_of_text_without_a_tokenizer_is_refused(run: Run, loads: Any) -> None:
    loads(_tiny)
    status, _, err = run("measure", "pocket", "--at", "prefill=1x16")
    assert status == 2
    assert "tokenizer" in err


def test_refit_passes_its_arguments_on_and_prints_both_sides(
    run: Run, refits: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_folder = tmp_path / "x"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.csv").write_text("body\nwords\n")
    (tmp_path / "y" / "workspace").mkdir(parents=True)
    status, out, _ = run(
        *("refit", "pocket", "--budget", "latency=0.75, bytes=0.5", "--out", str(out_folder)),
        *("--methods", "width,drop", "--at", "decode=1x64", "--seed", "3", "--heal-tokens", "512", "--quiet"),
        *("--heal-lr", "0.0005", "--heal-adapter", "lora:4", "--heal-baseline", "--workers", "2", "--device", "cuda:1"),
        *("--sites", "layers.3.ffn, layers.*.attn", "--distill-steps", "7", "--reuse", str(tmp_path / "y")),
        *("--data", "book.csv", "--text-column", "body", "--dtype", "bfloat16", "--compile"),
    )
    assert status == 0
    assert refits == {
        "model": "pocket",
        "budget": {"latency": 0.75, "bytes": 0.5},
        "out": out_folder,
        "methods": ["width", "drop"],
        "sites": ["layers.3.ffn", "layers.*.attn"],
        "data": "book.csv",
        "text_column": "body",
        "at": "decode=1x64",
        "seed": 3,
        "distill_steps": 7,
        "heal_tokens": 512,
        "heal_lr": 0.0005,
        "heal_adapter": "lora:4",
        "heal_baseline": True,
        "effort": 1.0,
        "compile": True,
        "trust_remote_code": False,
        "workers": 2,
        "device": "cuda:1",
        "dtype": "bfloat16",
        "reuse": tmp_path / "y",
        "progress": False,
    }
    assert refits.keys() - {"model", "progress"} == {field.name for field in fields(RefitConfig)}
    for shown in ("40.00", "30.00", "0.740", "0.0123", "8.400", "latency <= 0.75", "met, as measured", "report.html"):
        assert shown in out


def test_refit_can_print_the_whole_result_as_json(run: Run, refits: dict[str, Any], tmp_path: Path) -> None:
    status, out, _ = run("refit", "pocket", "--budget", "latency=0.75", "--out", str(tmp_path / "x"), "--json")
    assert status == 0
    assert json.loads(out)["chosen"]["measured"]["latency_ratio"] == 0.74


def test_a_missed_budget_has_an_exit_status_of_its_own_and_is_told_apart(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from layersmith.refitting import pipeline

    figures = {"latency_ms": 40.0, "params": 100, "bytes": 400, "flops": 9, "kv_bytes": 0}
    result = {
        "model": {"name": "pocket", "architecture": "LlamaForCausalLM"},
        "export": "stock",
        "settings": {"budget": {"latency": 0.6, "params": 1.0}, "at": "prefill=1x512"},
        "baseline": figures,
        "chosen": {"measured": figures | {"latency_ratio": 0.6004, "divergence": 0.1}, "meets_budget": False},
        "reload_max_abs_diff": 0.0,
    }
    monkeypatch.setattr(pipeline, "refit", lambda *given, **settings: SimpleNamespace(to_json=lambda: result))
    status, out, _ = run("refit", "pocket", "--budget", "latency=0.6,params=1", "--out", str(tmp_path))
    assert status == 3
    assert "NOT met (latency 0.6004 against 0.6000)" in out
    status, out, _ = run("refit", "pocket", "--budget", "latency=0.6", "--out", str(tmp_path), "--json")
    assert status == 3
    assert json.loads(out) == result


@pytest.mark.parametrize("text", ["latency", "0.75", "latency=", "latency=0.75;bytes=0.5", ""])
def test_a_budget_that_cannot_be_read_is_quoted(text: str) -> None:
    with pytest.raises(UserError, match="NAME=NUMBER"):
        parse_budget(text)
