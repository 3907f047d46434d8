"""`layersmith methods`: every method, what it needs, when it pays, and whether a run tries it by itself."""

from __future__ import annotations

import json

import pytest

from layersmith.commands.methods import methods
from layersmith.refitting import methods as table
from tests.commands.test_catalogue_command import run


def test_every_method_is_listed_with_its_facts() -> None:
    text = run(methods)
    for name in table.METHODS:
        assert f" {name} " in text
    assert "when named" in text
    assert "bytes" in text


def test_one_method_is_told_in_full() -> None:
    text = run(methods, "gptq")
    for told in (
        "quantize",
        "second moments",
        "Bytes at 4 and 3 bit",
        "for a budget of bytes",
        "2210.17323",
        "quantized",
    ):
        assert told in text
    assert "only when named" in run(methods, "heads")


def test_chains_are_told_of() -> None:
    assert "width+bf16" in run(methods)
    text = " ".join(run(methods, "width+int8_dynamic").split())
    for told in ("One method after another", "chain", "a plain or gated feed-forward", "only when named"):
        assert told in text
    assert json.loads(run(methods, "width+int8_dynamic", "--json"))["builds"] == ["glu", "mlp", "int8_dynamic"]


def test_json_holds_what_is_known_about_all_or_one() -> None:
    data = json.loads(run(methods, "--json"))
    assert [one["name"] for one in data] == list(table.METHODS)
    one = json.loads(run(methods, "width", "--json"))
    assert one in data
    assert one["default"] is True
    assert one["saves"] == ["latency", "params", "bytes", "flops"]
    assert one["statistics"] == ["inputs"]
    assert one["state"]["is"] == "partly"
    assert one["papers"][0]["arxiv"] == "2501.17771"


def test_a_misspelt_method_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'width'.*layersmith methods"):
        run(methods, "widht")
