"""The program's interface: commands, exit statuses and messages. What the commands compute is tested in their rooms."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from layersmith.cli import main
from layersmith.commands.refit import parse_budget
from layersmith.errors import UserError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the program in this process: exit status, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["layersmith", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], Any]], None]:
    """Let `checkpoint.load(name)` be answered by a function of the name."""

    def install(load: Callable[[str], Any]) -> None:
        fake = ModuleType("layersmith.checkpoint")
        fake.load = lambda name, trust_remote_code=False, device=None, tell=None: load(name)
        monkeypatch.setitem(sys.modules, "layersmith.checkpoint", fake)

    return install


def _tiny(_: str = "") -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=64, num_key_value_heads=2, **sizes))
    return model, None


def test_help_lists_every_command_and_version_is_the_packages(run: Run) -> None:
    import layersmith

    status, out, _ = run("--help")
    assert status == 0
    for command in ("sites", "refit", "measure", "check", "catalogue", "show", "--debug"):
        assert command in out
    assert run("--version")[1].strip() == f"layersmith {layersmith.__version__}"


def test_starting_up_imports_nothing_heavy() -> None:
    code = "import sys, layersmith.cli; print(sorted({'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_resolve() -> None:
    import layersmith

    assert {"catalogue", "load", "measure", "refit", "sites", "swap"} <= set(dir(layersmith))
    assert layersmith.catalogue.build({"name": "glu", "d_model": 8, "d_hidden": 16}).d_in == 8
    assert callable(layersmith.measure)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = layersmith.nothing


def test_a_users_mistake_is_one_paragraph_and_status_2(run: Run, loads: Any) -> None:
    def load(name: str) -> Any:
        raise UserError(f"There is no model at {name!r}. " + "Give a folder, a Hub id or 'pocket'. " * 4)

    loads(load)
    status, out, err = run("sites", "nowhere")
    assert status == 2
    assert out == ""
    assert err.startswith("There is no model at 'nowhere'.")
    assert "Traceback" not in err
    assert max(len(line) for line in err.splitlines()) <= 100


def test_an_unexpected_error_is_one_line_a_hint_and_status_1(run: Run, loads: Any) -> None:
    def load(name: str) -> Any:
        raise RuntimeError("the shapes disagree\nand more lines")

    loads(load)
    status, _, err = run("sites", "pocket")
    assert status == 1
    assert err.splitlines() == [
        "unexpected RuntimeError: the shapes disagree",
        "Run it again with --debug to see where.",
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(run: Run, loads: Any, place: int) -> None:
    def load(name: str) -> Any:
        raise UserError("no such thing")

    loads(load)
    arguments = ["sites", "pocket"]
    arguments.insert(place, "--debug")
    status, _, err = run(*arguments)
    assert status == 2
    assert "Traceback (most recent call last)" in err
    assert err.rstrip().endswith("no such thing")


def test_an_interruption_says_how_to_go_on(run: Run, loads: Any) -> None:
    def load(name: str) -> Any:
        raise KeyboardInterrupt

    loads(load)
    status, _, err = run("sites", "pocket")
    assert status == 130
    assert err == "interrupted; run the same command again to go on\n"


def test_an_unknown_option_is_status_2(run: Run) -> None:
    status, _, err = run("sites", "pocket", "--colour")
    assert status == 2
    assert "--colour" in err


def test_sites_as_a_table_and_as_json(run: Run, loads: Any) -> None:
    loads(_tiny)
    status, out, _ = run("sites", "somewhere", "--at", "prefill=1x16", "--rounds", "2")
    assert status == 0
    assert "layers.1.ffn" in out
    assert "2 x 48x32, 32x48" in out

    status, out, _ = run("sites", "somewhere", "--at", "prefill=1x16", "--rounds", "2", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["schema"] == "layersmith.sites/1"
    assert found["at"] == "prefill=1x16"
    ffn = next(site for site in found["sites"] if site["name"] == "layers.0.ffn")
    assert (ffn["kind"], ffn["params"]) == ("ffn", 3 * 32 * 48)
    assert 0 < ffn["flops_share"] < 1


def test_measure_as_a_table_and_as_json(run: Run, loads: Any) -> None:
    loads(_tiny)
    shapes = ["--at", "prefill=1x16,decode=1x16", "--windows", "2", "--rounds", "2", "--data", "random"]
    status, out, _ = run("measure", "new", "--against", "old", *shapes)
    assert status == 0
    assert "decode=1x16 latency, ms" in out
    assert "KL to the original, nats per token: 0.00000 · same next token: 100.0%" in out

    status, out, _ = run("measure", "new", *shapes, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["comparison"] is None
    assert set(found["model"]["at"]) == {"prefill=1x16", "decode=1x16"}


def test_measure_of_text_without_a_tokenizer_is_refused(run: Run, loads: Any) -> None:
    loads(_tiny)
    status, _, err = run("measure", "somewhere", "--at", "prefill=1x16")
    assert status == 2
    assert "tokenizer" in err


@pytest.fixture
def refits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the refit pipeline; holds what it was called with."""
    seen: dict[str, Any] = {}

    def refit(model: str, **settings: Any) -> dict[str, Any]:
        seen.update(settings, model=model)
        baseline = {"latency_ms": 40.0, "params": 100, "bytes": 400, "flops": 9, "kv_bytes": 0, "perplexity": 8.0}
        chosen = baseline | {"latency_ms": 30.0, "latency_ratio": 0.74, "kl": 0.0123, "perplexity": 8.4}
        return {
            "model": {"name": model},
            "settings": {"budget": settings["budget"], "at": settings["at"]},
            "baseline": baseline,
            "chosen": {"measured": chosen, "meets_budget": True},
            "reload_max_abs_diff": 0.0,
        }

    fake = ModuleType("layersmith.refit")
    fake.refit = refit
    monkeypatch.setitem(sys.modules, "layersmith.refit", fake)
    return seen


def test_refit_passes_its_arguments_on_and_prints_both_sides(run: Run, refits: dict[str, Any], tmp_path: Path) -> None:
    out_folder = tmp_path / "x"
    status, out, _ = run(
        *("refit", "pocket", "--budget", "latency=0.75, bytes=0.5", "--out", str(out_folder)),
        *("--methods", "width,drop", "--at", "decode=1x64", "--seed", "3", "--heal-tokens", "0", "--quiet"),
        *("--heal-lr", "0.0005", "--heal-baseline", "--workers", "2", "--device", "cuda:1"),
        *("--sites", "layers.3.ffn,layers.*.attn", "--distill-steps", "7", "--reuse", str(tmp_path / "y")),
    )
    assert status == 0
    assert refits == {
        "model": "pocket",
        "budget": {"latency": 0.75, "bytes": 0.5},
        "out": out_folder,
        "methods": ["width", "drop"],
        "sites": ["layers.3.ffn", "layers.*.attn"],
        "data": "stdlib",
        "at": "decode=1x64",
        "seed": 3,
        "distill_steps": 7,
        "heal_tokens": 0,
        "heal_lr": 0.0005,
        "heal_baseline": True,
        "effort": 1.0,
        "dtype": "auto",
        "trust_remote_code": False,
        "workers": 2,
        "device": "cuda:1",
        "reuse": tmp_path / "y",
        "progress": False,
    }
    for shown in ("40.00", "30.00", "0.740", "0.0123", "8.400", "latency <= 0.75", "met, as measured", "report.html"):
        assert shown in out


def test_refit_can_print_the_whole_result_as_json(run: Run, refits: dict[str, Any], tmp_path: Path) -> None:
    status, out, _ = run("refit", "pocket", "--budget", "latency=0.75", "--out", str(tmp_path), "--json")
    assert status == 0
    assert json.loads(out)["chosen"]["measured"]["latency_ratio"] == 0.74


@pytest.mark.parametrize("text", ["latency", "0.75", "latency=", "latency=0.75;bytes=0.5", ""])
def test_a_budget_that_cannot_be_read_is_quoted(text: str) -> None:
    with pytest.raises(UserError, match="NAME=SHARE"):
        parse_budget(text)
