"""What refit and explain make, they make where the model is: `tests/elsewhere.py` plays the device.

In a process of its own for each verb: after the pretended device has been used, models that transformers builds in the
same process have buffers without values.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("tests/refitting/elsewhere_refit.py", marks=pytest.mark.real),  # every method: half a minute
        "tests/explaining/elsewhere_explain.py",
    ],
)
def test_nothing_is_made_on_a_device_that_torch_chose(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", file]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout
