"""What the options of a run come to: defaults by the size of the model, and no small number that is taken for none."""

from __future__ import annotations

from pathlib import Path

import pytest

from layersmith.refitting.options import RefitConfig
from layersmith.refitting.settings import settings_for
from tests.refitting.conftest import tiny_llama


@pytest.mark.parametrize(("tokens", "windows"), [(0, 0), (1, 1), (255, 1), (256, 1), (511, 1), (512, 2)])
def test_healing_on_a_few_tokens_is_healing(tokens: int, windows: int) -> None:
    """Fewer than a window holds used to heal on none, without a word."""
    config = RefitConfig(budget={"params": 0.9}, out=Path("out"), heal_tokens=tokens)
    assert settings_for(tiny_llama(layers=1), config).sizes["heal"] == windows


def test_a_quick_look_still_has_something_of_everything() -> None:
    config = RefitConfig(budget={"params": 0.9}, out=Path("out"), effort=0.01)
    found = settings_for(tiny_llama(layers=1), config)
    assert all(count >= 1 for count in found.sizes.values())
    assert found.refine_evaluations >= 2
    assert found.sites == ["*"]
