"""The race files of the repository: each says a claim of a paper as an outcome that can be judged, and can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from layersmith.racing.budget import sized
from layersmith.racing.options import ENOUGH_SEEDS, RaceConfig, check, entrants_of, from_file
from layersmith.racing.tasks import build_task

FILES = sorted((Path(__file__).resolve().parents[2] / "races").glob("*.yaml"))


def test_there_are_some() -> None:
    assert len(FILES) >= 12


#: Every tenth at once; a minute for all of them is left to `make test-real`.
SOME = [pytest.param(path, marks=[] if n % 10 == 0 else pytest.mark.real) for n, path in enumerate(FILES)]


@pytest.mark.parametrize("path", SOME, ids=[path.stem for path in FILES])
def test_a_race_file_says_its_claim_and_every_entrant_reaches_the_budget(path: Path, tmp_path: Path) -> None:
    config = from_file(path, RaceConfig(out=tmp_path / "out"))
    check(config)
    assert config.claim
    assert config.papers
    assert config.expect
    assert config.seeds >= ENOUGH_SEEDS
    task = build_task(config.task, config.task_settings or {})
    entrants = sized(config, task, {})
    assert [entrant.name for entrant in entrants] == list(entrants_of(config))
