"""The program's interface: commands, exit statuses and messages. What the commands compute is tested in their rooms."""

import os
import re
import runpy
import signal
import subprocess
import sys
from typing import Any

import pytest

import layersmith.cli
from layersmith.errors import UserError
from tests.commands.conftest import Run


def test_help_lists_every_command_and_version_is_the_packages(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    for command in (*layersmith.cli.COMMANDS, "--debug"):
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
    status, out, err = run("sites", "pocket")
    assert status == 2
    assert out == ""
    assert err.startswith("There is no model at 'pocket'.")
    assert "Traceback" not in err
    longest = max(len(line) for line in err.splitlines())
    assert 150 < longest <= 200, "the text fills the terminal's width"


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


@pytest.mark.parametrize("command", sorted(layersmith.cli.COMMANDS))
def test_the_help_of_every_command_names_debug_and_json(run: Run, command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "--debug" in out
    for flag in ("--debug", "--json"):
        assert re.search(rf"{flag} +<?bool|{flag} +[a-z]", out, re.IGNORECASE), f"{flag} is a flag and takes no value"


@pytest.mark.parametrize("module", ["layersmith", "layersmith.cli"])
def test_the_program_runs_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    monkeypatch.delitem(sys.modules, module if module != "layersmith" else "layersmith.__main__", raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__")
    assert not stopped.value.code
    assert capsys.readouterr().out.startswith("layersmith ")


def test_sigterm_is_an_interruption_with_its_own_status(run: Run, loads: Any) -> None:
    def load(name: str) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came to nothing")

    before = signal.getsignal(signal.SIGTERM)
    loads(load)
    status, _, err = run("sites", "pocket")
    assert status == 143
    assert err == "terminated; run the same command again to go on\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_unknown_option_is_status_2(run: Run) -> None:
    status, _, err = run("sites", "pocket", "--colour")
    assert status == 2
    assert "--colour" in err
