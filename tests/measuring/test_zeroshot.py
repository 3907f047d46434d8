import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from layersmith.errors import UserError
from layersmith.measuring.compare import measure
from layersmith.measuring.zeroshot import Question, read_questions, zeroshot


def _write(path: Path, *records: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_questions_are_read_under_both_names(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "q.jsonl",
        {"context": "a b", "choices": ["c", "d"], "answer": 1},
        "",
        {"query": "e", "choices": ["f", "g", "h"], "gold": 0},
    )
    assert read_questions(path) == [Question("a b", ("c", "d"), 1), Question("e", ("f", "g", "h"), 0)]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("{not json", "Line 2 .* is not a question"),
        ({"context": "a", "answer": 0}, "Line 2 .* is not a question"),
        ({"context": "a", "choices": ["b", "c"], "answer": 2}, "index of one of them"),
        ({"context": "a", "choices": "bc", "answer": 0}, "Line 2 .* is not a question"),
        ("[" * 100_000, "Line 2 .* is not a question"),
        ('{"context": "\\ud800", "choices": ["b", "c"], "answer": 0}', "Line 2 .* is not a question"),
        ({"context": "a", "choices": ["b"], "answer": 0}, "at least two"),
        ({"context": "a", "choices": ["b", ""], "answer": 0}, "non-empty"),
        ({"context": " ", "choices": ["b", "c"], "answer": 0}, "empty context"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, record: object, says: str) -> None:
    path = _write(tmp_path / "q.jsonl", {"context": "a", "choices": ["b", "c"], "answer": 0}, record)
    with pytest.raises(UserError, match=says):
        read_questions(path)


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot read"):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="as UTF-8 text"):
        read_questions(tmp_path / "binary.jsonl")
    with pytest.raises(UserError, match="no questions"):
        read_questions(_write(tmp_path / "q.jsonl", ""))


def test_scores_are_summed_log_likelihoods_of_the_choices_tokens(
    tiny: nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    questions = [Question("ab:", ("cde", "xy"), 0), Question("12=", ("34", "5"), 1), Question("a", ("q", "zz"), 0)]
    found = zeroshot(tiny, tokenizer, questions)

    def score(context: str, choice: str) -> float:
        start = len(tokenizer(context)["input_ids"])
        ids = tokenizer(context + " " + choice)["input_ids"]
        total = 0.0
        for i in range(start, len(ids)):
            with torch.no_grad():
                total += float(torch.log_softmax(tiny(torch.tensor([ids[:i]])).logits[0, -1].double(), -1)[ids[i]])
        return total

    right = right_per_byte = 0
    for q in questions:
        scores = [score(q.context, c) for c in q.choices]
        per_byte = [s / len(c) for s, c in zip(scores, q.choices, strict=True)]
        right += scores.index(max(scores)) == q.answer
        right_per_byte += per_byte.index(max(per_byte)) == q.answer
    assert found["accuracy"] == right / 3
    assert found["accuracy_per_byte"] == right_per_byte / 3
    assert (found["chance"], found["questions"]) == (0.5, 3)


def test_the_preferred_choice_is_found_wherever_it_stands(tiny: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    choices = ["c", "x", "4", "("]
    preferred = max(range(4), key=lambda i: zeroshot(tiny, tokenizer, [Question("ab", tuple(choices), i)])["accuracy"])
    for turn in range(4):
        turned = tuple(choices[turn:] + choices[:turn])
        question = Question("ab", turned, turned.index(choices[preferred]))
        assert zeroshot(tiny, tokenizer, [question])["accuracy"] == 1.0


def test_an_encoder_has_no_score(encoder: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="no zero-shot score"):
        zeroshot(encoder, tokenizer, [Question("a", ("b", "c"), 0)])


def test_a_question_longer_than_the_model_is_named(tiny: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    """Rotary positions would go on without a word, a table of positions end in an error of torch's."""
    question = Question("ab " * 40, ("b", "c"), 0)
    with pytest.raises(UserError, match=r"begins 'ab ab .*more than this model's 64 positions"):
        zeroshot(tiny, tokenizer, [question])


def test_questions_are_refused_before_anything_is_measured(encoder: nn.Module, tiny: nn.Module, tmp_path: Path) -> None:
    path = _write(tmp_path / "q.jsonl", {"context": "a", "choices": ["b", "c"], "answer": 0})
    for models in ((encoder, None), (tiny, encoder)):
        with pytest.raises(UserError, match="no zero-shot score"):
            measure(*models, questions=str(path), data="random", at="prefill=1x8", rounds=10_000_000)
    path.write_text("no question")
    with pytest.raises(UserError, match="is not a question"):
        measure(tiny, questions=str(path), data="random", at="prefill=1x8", rounds=10_000_000)
