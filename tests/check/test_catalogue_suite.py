"""Every part of the catalogue passes every check; one test per pair, so that a report names both."""

from __future__ import annotations

import pytest

from layersmith import catalogue
from layersmith.check import CHECKS, check


@pytest.mark.parametrize("name", catalogue.ENTRIES)
@pytest.mark.parametrize("check_name", CHECKS)
def test_contract(name: str, check_name: str) -> None:
    (result,) = check(name, only=(check_name,))
    if result.skipped_reason:
        pytest.skip(result.skipped_reason)
    assert result.passed, result.detail
