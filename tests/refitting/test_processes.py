"""Real processes: workers that share out the library, and runs that are killed with SIGKILL and go on."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from transformers import AutoTokenizer

import layersmith.pocket
from layersmith.errors import UserError
from layersmith.refitting.build.workers import check_workers
from layersmith.refitting.pipeline import refit
from tests.refitting.conftest import tiny_llama

#: Latency differs from run to run; a params budget makes whole runs comparable.
OPTIONS = {"budget": {"params": 0.97}, "methods": ["width", "kv_merge"], "at": "prefill=1x32", "heal_tokens": 2048}
#: One thread everywhere: sums are then made in the same order in every process.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
PATIENCE = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(layers=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(layersmith.pocket.path()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(0)
    words = ["a", "kill", "at", "any", "byte", "leaves", "nothing", "half", "done", "behind"]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n\n".join(" ".join(rng.choice(words) for _ in range(40)) + f" {i}." for i in range(300)))
    return path


def started(model, text, out, workers=1):
    """The command line, as a user would give it, in a process of its own."""
    command = ["refit", model, "--out", out, "--data", text, "--budget", "params=0.97", "--methods", "width,kv_merge"]
    command += ["--at", "prefill=1x32", "--heal-tokens", "2048", "--workers", workers, "--quiet"]
    code = "from layersmith.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, command)], env=ENVIRONMENT, stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def whole(model, text, tmp_path_factory):
    """What a run gives that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    process = started(model, text, out)
    assert process.wait(PATIENCE) == 0
    return comparable(out)


def comparable(out):
    result = json.loads((out / "result.json").read_text())
    return {
        "chosen": result["chosen"]["candidates"],
        "scores": {c["id"]: (c["local_error"], c["kl"]) for c in result["candidates"]},
        "curve": result["heal"]["curve"],
        "measured": result["chosen"]["measured"]["kl"],
    }


@pytest.mark.parametrize(
    "stage",
    [
        "scores",
        pytest.param("library", marks=pytest.mark.real),  # half a minute each
        pytest.param("heal.safetensors", marks=pytest.mark.real),
    ],
)
def test_killed_with_sigkill_it_goes_on_and_ends_the_same(model, text, whole, tmp_path, stage):
    """Killed as soon as the stage has left its first file, while workers or the run itself are writing."""
    out = tmp_path / "run"
    process = started(model, text, out, workers=2)
    deadline = time.monotonic() + PATIENCE
    while not (out / "workspace" / stage).exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "result.json").exists()
    again = started(model, text, out, workers=2)
    assert again.wait(PATIENCE) == 0
    assert comparable(out) == whole


def test_a_worker_does_not_outlive_its_run(model, text, tmp_path):
    """Its standard input is a pipe that the run holds; when the run is gone it closes."""
    job = {"model": str(model), "trust_remote_code": False, "data": str(text), "out": str(tmp_path), "blocks": []}
    process = subprocess.Popen(
        [sys.executable, "-m", "layersmith.refitting.build.worker"], env=ENVIRONMENT, stdin=subprocess.PIPE, text=True
    )
    process.stdin.write(json.dumps({**job, "threads": 1}) + "\n")
    process.stdin.close()
    assert process.wait(PATIENCE) == 1


def test_workers_need_a_name_and_a_positive_number(tmp_path):
    with pytest.raises(UserError, match="given by its name"):
        refit(tiny_llama(layers=2), out=tmp_path / "run", workers=2, **OPTIONS)
    with pytest.raises(UserError, match="at least 1, not 0"):
        check_workers(0, "pocket")
