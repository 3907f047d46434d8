"""Venn-ABERS: equal to isotonic regression done anew for every score, calibrated where scores are not; the survey."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from layersmith.errors import UserError
from layersmith.explaining.calibration import judged
from layersmith.explaining.measures.venn_abers import VennAbers, brier, calibration_error, merged
from layersmith.explaining.pipeline import explain
from tests.explaining.conftest import tiny


def isotonic(pairs: list[tuple[float, float]], at: float) -> float:
    """The least-squares increasing function of the score, at one of them: max over left ends, min over right ends."""
    scores = sorted({score for score, _ in pairs})
    groups = {score: [answer for s, answer in pairs if s == score] for score in scores}
    where = scores.index(at)

    def mean(first: int, last: int) -> float:
        answers = [a for score in scores[first : last + 1] for a in groups[score]]
        return sum(answers) / len(answers)

    return max(min(mean(first, last) for last in range(where, len(scores))) for first in range(where + 1))


@pytest.mark.parametrize("ties", [True, False])
def test_the_interval_is_that_of_two_regressions_done_anew(ties: bool) -> None:
    rng = random.Random(0)
    for size in (1, 2, 5, 30):
        scores = [rng.randrange(8) / 8 if ties else rng.random() for _ in range(size)]
        answers = [rng.random() < score for score in scores]
        fitted = VennAbers(scores, answers)
        for score in [*scores[:4], -1.0, 0.5, 0.51, 2.0]:
            pairs = list(zip(scores, map(float, answers), strict=True))
            want = [isotonic([*pairs, (score, label)], score) for label in (0.0, 1.0)]
            assert fitted.interval(score) == pytest.approx(want, abs=1e-9)


def test_by_hand() -> None:
    fitted = VennAbers([0.1, 0.2, 0.3], [False, True, True])
    assert fitted.interval(0.15) == (0.0, 1.0)
    assert fitted.interval(0.9) == pytest.approx((2 / 3, 1.0))  # a wrong one behind two right ones is pooled with them
    assert merged(2 / 3, 1.0) == pytest.approx(0.75)
    assert merged(0.3, 0.3) == pytest.approx(0.3)


def drawn(count: int, seed: int) -> tuple[list[float], list[bool]]:
    """Scores that claim too much: the truth is their square."""
    rng = random.Random(seed)
    scores = [rng.random() for _ in range(count)]
    return scores, [rng.random() < score**2 for score in scores]


def test_what_claims_too_much_is_calibrated_and_its_order_kept() -> None:
    fitted, (asked, so) = VennAbers(*drawn(2000, 0)), drawn(2000, 1)
    intervals = [fitted.interval(score) for score in asked]
    found = judged(asked, intervals, so)
    assert found["said"]["error"] > 0.12
    assert found["venn_abers"]["error"] < 0.04
    assert found["venn_abers"]["brier"] < found["said"]["brier"] - 0.01
    assert found["width"] < 0.05
    assert all(low <= high for low, high in intervals)
    chances = [merged(*fitted.interval(score)) for score in sorted(asked)]
    assert all(b >= a - 0.05 for a, b in pairwise(chances))
    near = [i for i, score in enumerate(asked) if 0.6 < score < 0.8]
    assert sum(so[i] for i in near) / len(near) == pytest.approx(
        sum(intervals[i][1] for i in near) / len(near), abs=0.06
    )


def test_scores_that_say_nothing_end_at_the_share_of_what_was_so() -> None:
    scores, _ = drawn(2000, 0)
    rng = random.Random(5)
    fitted = VennAbers(scores, [rng.random() < 0.3 for _ in scores])
    chances = [merged(*fitted.interval(i / 10)) for i in range(1, 10)]
    assert all(chance == pytest.approx(0.3, abs=0.1) for chance in chances)


def test_figures_by_hand() -> None:
    assert calibration_error([0.1, 0.1, 0.9, 1.0], [False, True, True, True], bins=2) == pytest.approx(
        (abs(0.2 - 1) + abs(1.9 - 2)) / 4
    )
    assert brier([0.5, 1.0], [True, False]) == pytest.approx((0.25 + 1.0) / 2)
    with pytest.raises(ValueError, match="as many scores as answers"):
        VennAbers([], [])


def test_a_whole_survey_and_its_page(tokenizer, tmp_path) -> None:
    options = {"tool": "calibration", "tokenizer": tokenizer, "tokens": 1024, "progress": False, "out": tmp_path / "o"}
    model = tiny("llama")
    found = explain(model, **options, settings={"rows": 4})["survey"]
    assert found["judge_tokens"] >= 50
    assert 0 <= found["right"] <= 1
    assert found["right"] < 0.05, "a random model is hardly ever right"
    assert found["venn_abers"]["error"] < 0.05
    assert found["said"]["mean"] > 0
    titles = [section["title"] for section in found["sections"]]
    assert titles == ["How sure it is", "By how sure it says it is"]
    assert len(found["sections"][1]["table"]["rows"]) == 4
    assert "Venn-ABERS" in (tmp_path / "o" / "report.html").read_text()


def test_what_the_model_says_is_the_probability_of_its_likeliest_token() -> None:
    from layersmith.explaining.calibration import _of_batch

    class Seen:
        model = tiny("gpt2")

    ids = torch.randint(5, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    found = _of_batch(Seen, {"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        chances = Seen.model(input_ids=ids, attention_mask=mask).logits.double().softmax(-1)
    want = [chances[b, t].max() for b in range(2) for t in range(8) if mask[b, t] and mask[b, t + 1]]
    right = [
        chances[b, t].argmax() == ids[b, t + 1] for b in range(2) for t in range(8) if mask[b, t] and mask[b, t + 1]
    ]
    torch.testing.assert_close(found["said"], torch.stack(want), rtol=1e-4, atol=1e-6)
    assert found["right"].bool().tolist() == [bool(r) for r in right]


@pytest.mark.parametrize(
    ("shape", "settings", "said"),
    [("bert", {}, "foretells the next token"), ("llama", {"rows": 1}, "between 2 and 100")],
)
def test_who_is_refused(shape, settings, said, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match=said):
        explain(
            tiny(shape), tool="calibration", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o",
            settings=settings,
        )  # fmt: skip
