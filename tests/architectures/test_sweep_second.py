"""The other half of the sweep over all architectures: see `test_sweep.py`."""

from pathlib import Path

import pytest

from tests.architectures.test_sweep import PARTS, check


@pytest.mark.real
@pytest.mark.parametrize("part", range(PARTS // 2, PARTS))
def test_every_other_architecture_does_what_the_table_says(part: int, tmp_path: Path) -> None:
    check(part, tmp_path)
