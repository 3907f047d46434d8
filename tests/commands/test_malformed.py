"""Malformed command lines: each is refused at once, in words, with status 2, and leaves nothing behind.

They all run in one fresh interpreter, which must not have imported torch at the end: that is what "at once" means.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import layersmith
from layersmith.explaining.tools import TOOLS

REFIT = "refit pocket --out new --budget latency=0.75"

BUDGETS = """
latency | latency= | =0.5 | 0.5 | latency=0.75;bytes=0.5 | latency=x | latency=0.75,latency=0.5 | bytes=1,bytes=1
latency=0 | latency=-0.5 | latency=1.5 | latency=nan | latency=inf | latency=1e-999 | latencty=0.5 | speed=0.5
LATENCY=0.5 | latency=0.5, | ,latency=0.5 | latency=0.5,,bytes=1 | latency:0.5 | latency==0.5 | latency=50% | kv=0x1
latency=0.5 bytes=0.5 | {"latency":0.5} | latency=0,5
"""

#: Option -> values that no refit could mean.
REFIT_OPTIONS = {
    "--at": "|prefill|prefill=|1x512|prefill=512|prefill=1x|prefill=x512|prefill=0x512|prefill=1x0|prefill=-1x5|"
    "prefil=1x512|train=1x512|prefill=1.5x3|prefill=1x512,decode=1x128|PREFILL=1x512|prefill=1*512|decode=1x128x2|prefill=1x99999999999",
    "--methods": "|,|width,|,width|width,,drop|widht|heds|WIDTH|width drop|width;drop|quantise|gptq4",
    "--sites": "|,|layers.0.ffn,|,layers.0.ffn|layers.0.ffn,,layers.1.ffn|layers.0.fnn|layers.*.mlp|layers",
    "--data": "|stdlb|nothing.txt|no/such/folder|random|hub:|hub:a/b/c|hub:a b|hub|http://x/y",
    "--seed": "|-1|1.5|x|99999999999999999999|nan",
    "--distill-steps": "|-1|1.5|x",
    "--heal-tokens": "|-5|1e6|many",
    "--heal-lr": "|0|-0.001|1|nan|inf|fast",
    "--effort": "|0|-1|nan|inf|1000|0.001|high",
    "--workers": "|0|-2|1.5|two",
    "--device": "|gpu|cuda:|cuda:x|cuda:-1|cpu:|meta|CPU|cuda 1",
    "--reuse": "|nothing|afile|other|models/smol",
    "--out": "|afile|afile/new|other|loop|loop/new|/dev/null|/dev/null/x|~nouser-of-this-name/x|dangling|/proc/new|"
    + "x" * 300,
}

MODELS = """
poket | Pocket | pokcet | pockets | out/demo | out/demo/ | out/dmo | outt/demo/model | out/demo/modle | ./nothing
/no/such/folder | a/b/c | models/smlo | modles/smol | afile | empty | broken | list | two_ggufs | unfinished
missing.gguf | models/missing.gguf | "a b" | a//b | a\\\\b | ~nouser-of-this-name/x | "" | " " | https://x.y/z | a:b
-- | ../nothing/here | "models/smol?" | half/written
"""

OTHERS = [
    "",
    "refti pocket",
    "refit",
    "refit pocket",
    "refit pocket --out new",
    "refit pocket --budget latency=0.5",
    "refit pocket pocket --out new --budget latency=0.5",
    f"{REFIT} --colour",
    f"{REFIT} --quiet=maybe",
    f"{REFIT} --json=file",
    f"{REFIT} --heal-baseline=2",
    "explain",
    "explain poket",
    "explain pocket extra",
    "explain pocket --with statistic",
    "explain pocket --with ''",
    "explain pocket --with tools.py:",
    "explain pocket --with :Tool",
    "explain pocket --sites ''",
    "explain pocket --sites layers.0.ffn,",
    "explain pocket --sites layers.0.fnn",
    "explain pocket --site layers.0.ffn",
    "explain pocket --set k",
    "explain pocket --set k=",
    "explain pocket --set k=1,k=2",
    "explain pocket --with lens --set stepz=1",
    *(f"explain pocket --with {tool} --set k_of_no_tool=1" for tool in TOOLS),
    "explain pocket --with dictionary --set expansio=4",
    "explain pocket --data rndom",
    "explain pocket --words-by models/smol",
    "explain pocket --with dictionary --words-by empty",
    "explain pocket --with dictionary --words-by nothing/here",
    "explain pocket --with dictionary --words-by localhost:8000/v1",
    "explain pocket --with dictionary --words-by models/smol --words-model m",
    "explain pocket --with dictionary --words-model m",
    "explain pocket --with dictionary --words-by http://127.0.0.1:1/v1",
    "explain pocket --with dictionary --words-by ftp://127.0.0.1:1/v1 --words-model m",
    "explain pocket --with dictionary --words-by http://me:pass@127.0.0.1/v1 --words-model m",
    "explain pocket --with dictionary --words-by models/smol --words 0",
    "explain pocket --with dictionary --words-by models/smol --words-timeout 0",
    "explain pocket --tokens 0",
    "explain pocket --tokens 1e4",
    "explain pocket --seed -1",
    "explain pocket --device gpu",
    "explain pocket --out afile",
    "explain pocket --out other",
    "sites",
    "sites pocket --at",
    "sites pocket --at train=1x1",
    "sites pocket --rounds 0",
    "sites pocket --rounds -3",
    "sites pocket --rounds many",
    "sites pocket --device gpu",
    "sites pocket extra",
    "sites pocket --json out.json",
    "measure pocket --at ''",
    "measure pocket --at prefill=1x8,",
    "measure pocket --at prefill=1x8,decode",
    "measure pocket --against poket",
    "measure pocket --against nothing/at/all",
    "measure pocket --data rndom",
    "measure pocket --data nothing.txt",
    "measure pocket --windows 0",
    "measure pocket --rounds 0",
    "measure pocket --seed -1",
    "measure pocket --seed 99999999999999999999",
    "measure pocket --at prefill=1x9999999999",
    "sites pocket --at prefill=1x" + "9" * 5000,
    "explain pocket --seed 4294967296",
    "measure pocket --questions nothing.jsonl",
    "measure pocket --device cuda:one",
    "measure pocket --windws 2",
    "catalogue zyxwvut",
    "catalogue zyxwvut --papers",
    "show",
    "show gr_can",
    "show zyxwvut",
    "show 9999.99999",
    "methods widht",
    "construct parityy",
    "construct parity --set m=1",
    "race --task recal",
    "race --mixer softmaxx,deltanet",
    "race --optimizer adamww,sam",
    "race nothing.yaml",
    "export pocket --to onx --out new",
    "compile --force",
    "check",
    "check glu --all",
    "check --all --config {}",
    "check gr_can",
    "check gr_kan --config {",
    "check gr_kan --config [1]",
    "check gr_kan --config d_model=3",
    "check gr_kan --json results.json",
    "check gr_kan --config '" + "[" * 100_000 + "'",
]


def _cells(text: str) -> list[str]:
    return [cell.strip() for line in text.strip().splitlines() for cell in line.split("|") if cell.strip()]


def _lines() -> list[list[str]]:
    lines = [["refit", "pocket", "--out", "new", "--budget", budget] for budget in _cells(BUDGETS)]
    for option, values in REFIT_OPTIONS.items():
        # The last of two equal options counts, so the good one may stand before it.
        lines += [[*shlex.split(REFIT), f"{option}={value}"] for value in values.split("|")]
    for model in _cells(MODELS):
        lines.append(["refit", *shlex.split(model), "--out", "new", "--budget", "latency=0.75"])
        lines.append(["sites", *shlex.split(model)])
    return lines + [shlex.split(line) for line in OTHERS]


PROGRAM = """
import json, sys, time
from typer.testing import CliRunner
from layersmith.cli import app
from pathlib import Path

found = []
for line in json.load(sys.stdin):
    before, start = sorted(map(str, Path().rglob("*"))), time.monotonic()
    done = CliRunner().invoke(app, line, prog_name="layersmith")
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    left = sorted(set(map(str, Path().rglob("*"))) - set(before))
    found.append([line, done.exit_code, done.output, time.monotonic() - start, heavy, left])
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder as users have it: a finished refit, models, files, damaged things."""
    place = tmp_path_factory.mktemp("place")
    for model in ("out/demo/model", "models/smol"):
        (place / model).mkdir(parents=True)
        (place / model / "config.json").write_text("{}")
    for folder in ("out/demo/workspace", "unfinished/workspace", "empty", "other", "broken", "list", "two_ggufs"):
        (place / folder).mkdir(parents=True)
    for name in ("afile", "other/mine.txt", "two_ggufs/a.gguf", "two_ggufs/b.gguf"):
        (place / name).write_text("x")
    (place / "broken/config.json").write_text('{"model_type": ')
    (place / "list/config.json").write_text("[1, 2]")
    (place / "loop").symlink_to("loop")
    (place / "dangling").symlink_to("not-there")
    return place


@pytest.fixture(scope="module")
def refused(place: Path) -> dict[str, list[Any]]:
    """command line -> [line, status, output, seconds, heavy modules, files left]."""
    source = Path(layersmith.__file__).resolve().parents[1]  # the code under test, from another working folder
    environment = os.environ | {"COLUMNS": "1000", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(_lines()),
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {shlex.join(found[0]): found for found in json.loads(done.stdout)}


def test_every_malformed_line_is_refused_in_words_at_once_and_leaves_nothing(refused: dict[str, list[Any]]) -> None:
    assert len(refused) >= 150
    wrong = {
        line[:120]: (status, output[-200:], heavy, left)
        for line, (_, status, output, _, heavy, left) in refused.items()
        if status != 2 or len(output.strip()) < 20 or "Traceback" in output or heavy or left
    }
    assert not wrong
    assert max(found[3] for found in refused.values()) < 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sites poket", "Did you mean 'pocket'"),
        ("sites Pocket", "Did you mean 'pocket'"),
        ("sites out/demo", "'out/demo/model'"),
        ("sites out/dmo", "Did you mean 'out/demo/model'"),
        ("sites outt/demo/model", "Did you mean 'out/demo/model'"),
        ("sites models/smlo", "Did you mean 'models/smol'"),
        ("sites modles/smol", "Did you mean 'models/smol'"),
        ("sites unfinished", "has not finished"),
        ("sites broken", "not JSON"),
        ("sites two_ggufs", "name one of them"),
        (f"{REFIT} --methods=widht", "Did you mean 'width'"),
        (f"{REFIT} --methods=heds", "'heads'"),
        (f"{REFIT} --data=stdlb", "Did you mean 'stdlib'"),
        (f"{REFIT} --out=afile/new", "is not a folder"),
        (f"{REFIT} --out=other", "holds no layersmith run"),
        (f"{REFIT} --distill-steps=-1", "0 or more"),
        (f"{REFIT} --sites=layers.0.fnn", "Did you mean 'layers.0.ffn'"),
        ("explain pocket --sites layers.0.fnn", "Did you mean 'layers.0.ffn'"),
        ("explain pocket --site layers.0.ffn", "--sites"),
        ("refit pocket --out new --budget latency=0.75,latency=0.5", "names latency twice"),
        ("refit pocket --out new --budget latencty=0.5", "Did you mean 'latency'"),
        ("explain pocket --with dictionary --set expansio=4", "Did you mean 'expansion'"),
        ("check gr_can", "'gr_kan'"),
        ("show gr_can", "Did you mean 'gr_kan'"),
        ("catalogue zyxwvut", "Nothing in the catalogue mentions"),
        ("race --task recal", "Did you mean 'recall'"),
        ("construct parity --set m=1", "Known names: n, seed, strings"),
    ],
)
def test_a_refusal_says_what_was_probably_meant(refused: dict[str, list[Any]], line: str, said: str) -> None:
    assert said in refused[shlex.join(shlex.split(line))][2]
