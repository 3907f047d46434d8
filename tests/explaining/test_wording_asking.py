"""What a writer is asked and how its answers are read; the score; which passages are shown, and which are judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.explaining.wording.passages import LENGTH, QUANTILES, SHOWN, SILENT, TOP, passages_of
from layersmith.explaining.wording.prompts import (
    activations_in,
    asking_for_a_sentence,
    asking_for_activations,
    sentence_in,
)
from layersmith.explaining.wording.scoring import correlated, simulate
from layersmith.explaining.wording.words import in_words
from layersmith.explaining.wording.writer import Unanswered
from tests.explaining.endpoint import oracle, useless


def test_active_tokens_are_marked_with_their_share_of_the_largest_code() -> None:
    prompt = asking_for_a_sentence([(["a", " b", " c"], [0.0, 4.0, 0.01]), ([" d"], [2.0])])
    assert "Passage 1:\na[[ b|10]][[ c|1]]\n" in prompt
    assert "Passage 2:\n[[ d|5]]\n" in prompt


def test_the_tokens_of_a_simulation_stand_one_a_line_whatever_they_hold_and_no_code_is_given_away() -> None:
    prompt = asking_for_activations("Line breaks.", ["a", "\n\n", ' "'])
    assert '\n1: "a"\n2: "\\n\\n"\n3: " \\""\n' in prompt
    assert "Line breaks." in prompt
    assert "3 tokens" in prompt


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("Names of months.", "Names of months."),
        ('\n\n "Names of months." \nand more', "Names of months."),
        ("Sentence: **months**", "months"),
        ("<think>\nIs it names?\n</think>\n\nMonths.", "Months."),
        ("\x1b[31mred\x07\x00 \u202etext", "[31mred text"),
        ("---\nMonths", "Months"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_a_sentence_is_one_clean_line(answer: str, sentence: str) -> None:
    assert sentence_in(answer) == sentence


@pytest.mark.parametrize("answer", ["", "  \n ", "...", "<think>Months</think>", "\x00"])
def test_an_answer_without_a_sentence_is_none(answer: str) -> None:
    with pytest.raises(Unanswered, match="no sentence"):
        sentence_in(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "1: 0\n2: 10\n3: 2.5",
        "Here you are:\n```\n3: 2.5\n 1:0 \n2:\t10\n```\nDone.",
        '1: "a" 0\n2: " 7": 10\n3: "\\"" 2.5',
        "<think>1: 9\n1: 9</think>1: 0\n2: 10\n3: 2.5",
    ],
)
def test_activations_are_read_by_the_tokens_numbers(answer: str) -> None:
    assert activations_in(answer, 3) == [0.0, 10.0, 2.5]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "no line of the form"),
        ("I cannot say.", "no line of the form"),
        ("0 10 2", "no line of the form"),
        ("1: 0\n2: 10", "leaves tokens out"),
        ("1: 0\n2: 3 of 10\n3: 1", "leaves tokens out"),
        ("1: 0\n2: -3\n3: 1", "leaves tokens out"),
        ("1: 0\n2: nan\n3: 1", "leaves tokens out"),
        ("1: 0\n2: 10\n2: 10\n3: 1", "twice"),
        ("1: 0\n2: 11\n3: 1", "above 10"),
        ("1: 0\n2: 1\n3: 1\n4: 1", "not there"),
        ("0: 0\n1: 0\n2: 1\n3: 1", "not there"),
    ],
)
def test_an_answer_that_is_not_one_number_a_token_is_no_answer(answer: str, why: str) -> None:
    with pytest.raises(Unanswered, match=why):
        activations_in(answer, 3)


def test_the_score_is_pearsons_correlation_over_all_tokens_at_once() -> None:
    draw = np.random.default_rng(0)
    true, said = draw.random((3, 8)) + np.arange(3)[:, None], draw.integers(0, 11, (3, 8)).astype(float)
    answers = iter("\n".join(f"{n}: {v:g}" for n, v in enumerate(row, 1)) for row in said)
    found = simulate(lambda prompt, most: next(answers), "It.", [(["t"] * 8, row.tolist()) for row in true])
    x, y = true.flatten(), said.flatten()
    expected = ((x - x.mean()) * (y - y.mean())).sum() / np.sqrt(
        ((x - x.mean()) ** 2).sum() * ((y - y.mean()) ** 2).sum()
    )
    assert found.correlation == pytest.approx(expected, rel=1e-12)
    means = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(true, said, strict=True)])
    assert abs(found.correlation - means) > 0.05, "a mean over passages is something else"
    assert found.foretold == said.tolist()


@pytest.mark.parametrize(
    ("true", "simulated", "why"),
    [
        ([], [], "could be read"),
        ([0.0, 0.0], [1.0, 2.0], "active nowhere"),
        ([2.0, 2.0], [1.0, 2.0], "equally active"),
        ([0.0, 2.0], [0.0, 0.0], "the same activation, 0"),
    ],
)
def test_where_nothing_varies_there_is_no_score_but_a_reason(true: list, simulated: list, why: str) -> None:
    correlation, said = correlated(true, simulated)
    assert correlation is None
    assert why in said


def test_unreadable_answers_are_left_out_counted_and_named_and_never_taken_for_silence() -> None:
    true = [[0.0, 1.0], [5.0, 0.0], [0.0, 3.0], [1.0, 0.0]]
    answers = iter(["1: 0\n2: 3", "no idea", "1: 0", "1: 3\n2: 0"])
    found = simulate(lambda prompt, most: next(answers), "It.", [(["a", "b"], row) for row in true])
    assert found.foretold == [[0.0, 3.0], None, None, [3.0, 0.0]]
    assert found.correlation == pytest.approx(1.0)
    assert found.unreadable == {"it holds no line of the form 3: 0": 1, "it leaves tokens out": 1}
    assert found.to_json()["passages"] == 4


FIT, HELD = 40, 40


@pytest.fixture
def drawn() -> dict:
    """Two features over fit text of ids below 10000 and held-out text above; one is silent in most passages."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.zeros(FIT + HELD, LENGTH, 3)
    for passage in range(FIT + HELD):
        if passage % 3:
            codes[passage, int(torch.randint(LENGTH, (1,), generator=draw)), 0] = 1.0 + passage
        if passage == 5:
            codes[passage, 2, 2] = 0.25
    ids = torch.cat([torch.arange(FIT * LENGTH), 10000 + torch.arange(HELD * LENGTH)])
    rows = codes.flatten(0, 1)
    cut = FIT * LENGTH
    fit, held = {"inputs": rows[:cut], "ids": ids[:cut]}, {"inputs": rows[cut:], "ids": ids[cut:]}
    held["inputs"], held["ids"] = held["inputs"][:-3], held["ids"][:-3]  # the last passage is not whole
    return passages_of(lambda x: x, [0, 2], fit, held, seed=0)


def test_sentences_are_made_from_the_most_active_passages_of_the_fitted_text(drawn: dict) -> None:
    shown = drawn["0"]["shown"]
    assert [max(passage["codes"]) for passage in shown] == [39.0, 38.0, 36.0, 35.0, 33.0, 32.0]
    assert len(shown) == SHOWN
    assert all(i < 10000 for passage in shown for i in passage["ids"])
    assert [max(passage["codes"]) for passage in drawn["2"]["shown"]] == [0.25]


def test_sentences_are_judged_on_held_out_passages_of_three_kinds(drawn: dict) -> None:
    held = drawn["0"]["held_out"]
    assert all(i >= 10000 for passage in held for i in passage["ids"])
    assert [passage["from"] for passage in held] == ["top"] * TOP + ["quantile"] * QUANTILES + ["silent"] * SILENT
    peaks = [max(passage["codes"]) for passage in held]
    assert peaks[:TOP] == [78.0, 77.0, 75.0, 74.0]
    between = peaks[TOP : TOP + QUANTILES]
    assert between == sorted(between, reverse=True)
    assert max(between) < min(peaks[:TOP])
    assert between[0] - between[-1] > 15, "of all strengths, not those next to the top"
    assert peaks[TOP + QUANTILES :] == [0.0] * SILENT
    starts = [passage["ids"][0] for passage in held]
    assert len(set(starts)) == len(starts)
    for passage in held:
        assert passage["ids"] == list(range(passage["ids"][0], passage["ids"][0] + LENGTH))
    assert {passage["from"] for passage in drawn["2"]["held_out"]} == {"silent"}


VOCABULARY = [f" w{n}" for n in range(50)]


def planted(token: int, seed: int) -> dict:
    """Passages of a feature that fires on one token, from 1 to 3."""
    draw = torch.Generator().manual_seed(seed)

    def passage(kind: str, quiet: bool = False) -> dict:
        ids = torch.randint(20, 50, (LENGTH,), generator=draw)
        where = torch.randperm(LENGTH, generator=draw)[:4]
        ids[where] = torch.tensor([3, 3, 7, 7])
        ids[ids == token] = 10 if quiet else token
        return {"from": kind, "ids": ids.tolist(), "codes": (2.0 * (ids == token)).tolist()}

    return {
        "shown": [passage("shown") for _ in range(3)],
        "held_out": [passage("top"), passage("quantile"), passage("silent", quiet=True)],
    }


def spell(ids: list[int]) -> list[str]:
    return [VOCABULARY[i] for i in ids]


def test_a_writer_that_knows_the_features_scores_1_and_with_anothers_sentence_nothing() -> None:
    found = in_words({"4": planted(3, 0), "8": planted(7, 1)}, [4, 8], "oracle", lambda p, most: oracle(p), spell)
    assert found[4]["sentence"] == 'The token " w3".'
    assert found[8]["sentence"] == 'The token " w7".'
    for feature, other in ((4, 8), (8, 4)):
        assert found[feature]["score"]["correlation"] == pytest.approx(1.0, abs=1e-12)
        assert found[feature]["score"]["passages"] == 3
        assert found[feature]["control_of"] == other
        assert -0.2 < found[feature]["control"]["correlation"] < 0.1
        assert found[feature]["by"] == "oracle"
        for passage in found[feature]["held_out"]:
            assert passage["foretold"] == [5 * code for code in passage["codes"]]


def test_a_useless_writer_scores_about_0() -> None:
    given = {str(n): planted(3, n) for n in range(8)}
    found = in_words(given, list(range(8)), "useless", lambda p, most: useless(p), spell)
    scores = [words["score"]["correlation"] for words in found.values()]
    assert all(abs(score) < 0.4 for score in scores)
    assert abs(sum(scores)) / len(scores) < 0.15


def test_a_feature_alone_has_no_control_and_one_without_passages_no_sentence() -> None:
    asked = []

    def ask(prompt: str, most: int) -> str:
        asked.append(prompt)
        return oracle(prompt)

    found = in_words({"4": planted(3, 0), "5": {"shown": [], "held_out": []}}, [4, 5], "oracle", ask, spell)
    assert found[4]["control"] is None
    assert found[4]["control_of"] is None
    assert found[4]["score"]["correlation"] == pytest.approx(1.0)
    assert found[5]["sentence"] is None
    assert "not active" in found[5]["why"]
    assert found[5]["score"] is found[5]["control"] is None
    assert len(asked) == 1 + 3


def test_a_writer_without_a_sentence_is_told_of() -> None:
    found = in_words({"4": planted(3, 0)}, [4], "mute", lambda p, most: "...", spell)
    assert found[4]["sentence"] is None
    assert found[4]["why"] == "the answer holds no sentence"
    assert [passage["foretold"] for passage in found[4]["held_out"]] == [None] * 3
