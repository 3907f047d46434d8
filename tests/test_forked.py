"""What is forked is a fresh process: it knows nothing of the tests, and what happens in it is told."""

import os
import sys

from tests import forked

CHANGED: list[int] = []


def look() -> None:
    sys.stdout.write(f"{os.getpid()} {CHANGED} {torch_is_patched()}\n")


def torch_is_patched() -> bool:
    import torch

    return getattr(torch, "patched_by_a_test", False)


def fail() -> None:
    raise LookupError("as a model would")


def test_it_knows_nothing_of_the_tests(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import torch

    monkeypatch.setattr(torch, "patched_by_a_test", True, raising=False)
    CHANGED.append(1)
    for _ in range(2):  # nor one of another
        status, said = forked.run(look)
        assert status == 0
        process, known = said.strip().split(" ", 1)
        assert int(process) != os.getpid()
        assert known == "[] False"


def test_how_it_ends_is_told() -> None:
    status, said = forked.run(fail)
    assert status == 1
    assert said.strip().endswith("LookupError: as a model would")
    assert forked.run(os._exit, 3)[0] == 3
