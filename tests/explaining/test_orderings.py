"""Orders of evidence: by hand on a small model, nothing where the evidence is a set, and who is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from layersmith.errors import UserError
from layersmith.explaining.orderings import Orderings, _of_passage, line
from layersmith.explaining.pipeline import explain
from tests.explaining.conftest import tiny


class Seen:
    """As much of a subject as a passage needs."""

    def __init__(self, model: torch.nn.Module):
        self.model = model


def settings(**given: int) -> dict:
    return {**Orderings.settings, **given}


def test_two_pieces_by_hand() -> None:
    model = tiny("llama")
    ids = torch.randint(5, 100, (11,), generator=torch.Generator().manual_seed(0))
    found = _of_passage(Seen(model), ids, 2, settings(answer=3))
    told = []
    for first, second in (((1, 4), (4, 7)), ((4, 7), (1, 4))):
        row = torch.cat((ids[slice(*first)], ids[slice(*second)], ids[7:]))
        with torch.no_grad():
            logits = model(input_ids=row[None]).logits[0].double()
        told.append(sum(float(logits[t - 1].log_softmax(-1)[row[t]]) for t in (7, 8, 9)))
    assert found["mean"] == pytest.approx(-sum(told) / 2 / 3, abs=1e-5)
    assert found["mixture"] == pytest.approx(-math.log((math.exp(told[0]) + math.exp(told[1])) / 2) / 3, abs=1e-5)
    assert found["dispersion"] == pytest.approx(abs(told[0] - told[1]) / 2 / 3, abs=1e-5)
    assert found["mixture"] < found["mean"]


def test_one_causal_layer_without_positions_sees_a_set_and_two_do_not() -> None:
    model = tiny("gpt2")
    ids = torch.randint(5, 100, (30,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
    assert _of_passage(Seen(model), ids, 4, settings(answer=2))["dispersion"] > 1e-3
    with torch.no_grad():
        for part in (model.transformer.h[1].attn.c_proj, model.transformer.h[1].mlp.c_proj):
            part.weight.zero_()
            part.bias.zero_()
    found = _of_passage(Seen(model), ids, 4, settings(answer=2))
    assert found["dispersion"] < 1e-5
    assert found["mixture"] == pytest.approx(found["mean"], abs=1e-5)


def test_orders_are_different_ones_and_the_passage_s_own_is_among_them() -> None:
    from layersmith.explaining.orderings import _orders

    assert sorted(_orders(2, settings(orders=8))) == [(0, 1), (1, 0)]
    found = _orders(8, settings(orders=6))
    assert found[0] == tuple(range(8))
    assert len(set(found)) == 6
    assert all(sorted(order) == list(range(8)) for order in found)
    assert set(_orders(3, settings(orders=6))) == set(itertools.permutations(range(3)))


def test_the_line_is_that_of_least_squares() -> None:
    slope, start = line([math.log(n) for n in (2, 4, 8)], [0.5 + 0.2 * math.log(n) for n in (2, 4, 8)])
    assert slope == pytest.approx(0.2)
    assert start == pytest.approx(0.5)


def test_a_whole_survey_and_its_page(tokenizer, tmp_path) -> None:
    document = explain(
        tiny("llama"), tool="orderings", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o",
        settings={"pieces": 4, "orders": 3, "answer": 4},
    )  # fmt: skip
    found = document["survey"]
    assert set(found["pieces"]) == {"2", "4"}
    assert all(one["mixture"] <= one["mean"] for one in found["pieces"].values())
    assert found["passages"] > 0
    assert "Evidence in other orders" in (tmp_path / "o" / "report.html").read_text()


def test_a_model_that_sees_both_sides_is_refused(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="foretells the next token"):
        explain(tiny("bert"), tool="orderings", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o")


@pytest.mark.parametrize("given", [{"pieces": 3}, {"orders": 1}, {"answer": 0}])
def test_settings_that_leave_nothing_to_compare_are_refused(given: dict) -> None:
    with pytest.raises(UserError, match="must be at least"):
        Orderings().check(settings(**given))
