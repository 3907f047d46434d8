"""Masks over weights, counts of pairs, and the subnetwork that says what the pairs say."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import Edit, apply
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.bigrams import correlation, counts
from layersmith.explaining.masking import learn, maskable, masked, random_like, without
from layersmith.explaining.pipeline import explain
from layersmith.linear.int8_dynamic import Int8Dynamic
from tests.explaining.conftest import tiny

IDS = torch.arange(24).view(2, 12) * 7 % 4096


def test_pairs_are_counted_within_rows() -> None:
    rows = torch.randint(6, (5, 40), generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 5  # never followed by 0
    rows[rows == 0] = 1
    found = counts(rows, vocabulary=7)
    pairs = Counter((a, b) for row in rows.tolist() for a, b in pairwise(row))
    firsts = Counter(a for row in rows.tolist() for a in row[:-1])
    every = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    wanted = [math.log(pairs[a, b] / firsts[a]) if (a, b) in pairs else -math.inf for a, b in every.tolist()]
    assert found.log_p(every[:, 0], every[:, 1]).tolist() == pytest.approx(wanted)
    log_q = torch.randn(4, 7, dtype=torch.float64).log_softmax(-1)
    current = torch.tensor([3, 6, 3, 1])  # 6 was never seen
    crosses = [
        -sum(pairs[w, b] / firsts[w] * float(log_q[i, b]) for b in range(7))
        for i, w in enumerate(current.tolist())
        if w in firsts
    ]
    assert float(found.cross_entropy(current, log_q)) == pytest.approx(sum(crosses) / 3)


def test_correlation_is_pearsons() -> None:
    a, b = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.arange(50.0)
    assert correlation(a, b) == pytest.approx(float(torch.corrcoef(torch.stack([a, b]))[0, 1]), rel=1e-5)
    assert correlation(b, 3 - 2 * b) == pytest.approx(-1.0)
    assert correlation(a, torch.ones(50)) is None
    assert correlation(a[:1], b[:1]) is None


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_a_mask_of_ones_is_the_model_and_one_of_zeros_the_model_with_those_weights_gone(shape) -> None:
    model = tiny(shape)
    weights = maskable(model, find_sites(model))
    assert all(w.ndim == 2 for w in weights.values())
    assert not any("embed" in name or "wte" in name or "lm_head" in name for name in weights)
    gone = copy.deepcopy(model)
    with torch.no_grad():
        for name, w in gone.named_parameters():
            if name in weights:
                w.zero_()
    with evaluating(model), evaluating(gone):
        ones = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
        assert torch.equal(masked(model, weights, ones, {"input_ids": IDS}), model(input_ids=IDS).logits)
        zeros = without(ones)
        assert torch.equal(masked(model, weights, zeros, {"input_ids": IDS}), gone(input_ids=IDS).logits)
        assert not torch.equal(gone(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_random_masks_keep_as_many_of_each_matrix() -> None:
    masks = {"a": torch.rand(20, 30) < 0.2, "b": torch.rand(7, 5) < 0.7}
    drawn = random_like(masks, 0)
    assert [int(drawn[n].sum()) for n in masks] == [int(masks[n].sum()) for n in masks]
    assert not torch.equal(drawn["a"], masks["a"])
    assert not torch.equal(drawn["a"], random_like(masks, 1)["a"])


def test_the_weights_that_are_wanted_are_kept_and_no_others() -> None:
    """Where every weight is wanted or does harm for itself; what does neither is not worth its cost."""
    weight = {"w": torch.tensor([[1.0, 1.0, 5.0, 0.0], [2.0, -3.0, 1.0, 0.0]])}
    wanted = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]])

    def loss(masks, step):
        return (weight["w"] * (masks["w"] - wanted)).square().sum()

    told = []
    kept = learn(weight, loss, 200, 0.05, 0.1, lambda text, done, every: told.append((done, every)))
    assert kept["w"].int().tolist() == wanted.tolist()
    assert told[-1] == (200, 200)
    assert not learn(weight, loss, 200, 0.05, 1e4, lambda *args: None)["w"].any()  # the penalty alone


def test_the_survey_finds_what_random_weights_do_not_say(llama, tokenizer, tmp_path) -> None:
    before = copy.deepcopy(llama.state_dict())
    asked = {
        "tool": "bigrams",
        "settings": {"counted": 4096, "steps": 40, "penalty": 0.5},
        "tokens": 512,
        "out": tmp_path / "out",
        "progress": False,
    }
    found = explain(llama, tokenizer=tokenizer, **asked)["survey"]
    rows = found["rows"]
    assert 0 < found["kept"] < 1
    assert rows["subnetwork"]["cross_entropy"] < rows["random weights"]["cross_entropy"]
    assert rows["subnetwork"]["cross_entropy"] < rows["whole model"]["cross_entropy"]
    assert all(torch.equal(value, before[key]) for key, value in llama.state_dict().items())
    assert "What the subnetwork says" in (tmp_path / "out" / "report.html").read_text()
    again = explain(llama, tokenizer=tokenizer, **asked)["survey"]
    assert json.dumps(again) == json.dumps(found)


def test_a_text_that_has_changed_under_its_name_is_counted_anew(llama, tokenizer, tmp_path) -> None:
    text = tmp_path / "text.txt"

    def cross_entropy(word: str) -> float:
        text.write_text("\n\n".join(f"{word} {number} of the {word}s " * 12 for number in range(200)))
        found = explain(
            llama, tool="bigrams", tokenizer=tokenizer, tokens=512, out=tmp_path / "o", progress=False,
            settings={"text": str(text), "counted": 1024, "steps": 2},
        )["survey"]  # fmt: skip
        return found["rows"]["whole model"]["cross_entropy"]

    assert cross_entropy("house") != cross_entropy("return")


def test_a_map_to_logits_in_a_number_format_has_the_vocabulary_of_its_logits(llama, tokenizer, tmp_path) -> None:
    part = Int8Dynamic.from_weight(llama.lm_head.weight)
    apply(llama, [(Edit("lm_head", part.spec(), {}), part)])
    settings = {"counted": 1024, "steps": 2}
    found = explain(
        llama, tool="bigrams", tokenizer=tokenizer, tokens=512, out=tmp_path / "o", settings=settings, progress=False
    )["survey"]
    assert 0 < found["pairs"] <= 1024
    assert found["rows"]["whole model"]["cross_entropy"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"counted": 100}, "counted must be at least 256"),
        ({"penalty": -1.0}, "penalty 0 or more"),
        ({"text": "/nowhere/at/all.txt"}, "There is no text at '/nowhere/at/all.txt'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(settings, message, llama, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        explain(llama, tool="bigrams", tokenizer=tokenizer, out=tmp_path / "o", settings=settings, progress=False)
    assert not (tmp_path / "o").exists()


def test_models_that_predict_no_next_token_are_refused(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="BertForMaskedLM with the sites asked for is not that"):
        explain(tiny("bert"), tool="bigrams", tokenizer=tokenizer, tokens=512, out=tmp_path / "o", progress=False)
