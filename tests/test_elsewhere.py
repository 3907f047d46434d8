"""What refit and explain make, they make where the model is: `tests/elsewhere.py` plays the device.

In a process of its own for each verb: after the pretended device has been used, models that transformers builds in the
same process have buffers without values.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("tests/refitting/elsewhere_refit.py", marks=pytest.mark.real),  # every method: half a minute
        "tests/explaining/elsewhere_explain.py",
    ],
)
def test_nothing_is_made_on_a_device_that_torch_chose(file: str) -> None:
    status, said = forked.run(pytest.main, ["-n", "0", "-p", "no:cacheprovider", str(ROOT / file)])
    assert status == 0, said[-5000:]
    assert " passed" in said
