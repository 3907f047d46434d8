"""One answer from another: a planted map is found, none where there is none, and what cannot be asked is refused."""

from __future__ import annotations

import pytest
import torch

from layersmith.errors import UserError
from layersmith.explaining.pipeline import explain
from layersmith.explaining.relations import Relations, _answers, _ids, _shuffled, correlations, judged, subjects_of
from tests.explaining.conftest import tiny


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def settings(**given: object) -> dict:
    return {**Relations.settings, **given}


def test_a_planted_map_is_found_and_its_control_is_not() -> None:
    x, new_x, weight, bias = draw(0, 60, 5), draw(1, 40, 5), draw(2, 4, 5), draw(3, 4)
    y, new_y = (rows @ weight.T + bias for rows in (x, new_x))
    found = judged(x, y, new_x, new_y, 1e-9)
    torch.testing.assert_close(found["weight"], weight, atol=1e-6, rtol=0)
    assert found["correlation"] == pytest.approx(1)
    assert found["foretold"] == 1
    assert abs(_shuffled(x, y, new_x, new_y, 1e-9)) < 0.2


def test_answers_that_have_nothing_to_do_with_one_another_do_not_correlate() -> None:
    found = judged(draw(0, 400, 5), draw(1, 400, 4), draw(2, 200, 5), draw(3, 200, 4), 0.1)
    assert abs(found["correlation"]) < 0.15
    assert found["foretold"] <= found["commonest"] + 0.15


def test_correlations_are_pearson_s_and_nothing_for_what_does_not_vary() -> None:
    a, b = draw(0, 30, 3), draw(1, 30, 3)
    wanted = [float(torch.corrcoef(torch.stack((a[:, j], b[:, j])))[0, 1]) for j in range(3)]
    torch.testing.assert_close(correlations(a, b), torch.tensor(wanted, dtype=torch.float64))
    assert float(correlations(torch.ones(5, 1).double(), draw(0, 5, 1))) == 0


def test_an_end_that_the_tokenizer_adds_is_not_part_of_the_prompt() -> None:
    class Ending:
        all_special_ids = (1, 2)

        def __call__(self, text: str) -> dict:
            return {"input_ids": [1, *(ord(letter) for letter in text), 2]}

    assert _ids(Ending(), "ab") == [1, 97, 98]


def test_answers_are_the_tokens_that_some_subject_makes_likelier() -> None:
    chances = torch.tensor([[0.01, 0.3, 0.6, 0.09], [0.3, 0.01, 0.6, 0.09], [0.15, 0.15, 0.6, 0.1]])
    assert sorted(_answers(chances.log(), 2).tolist()) == [0, 1]
    assert len(_answers(chances.log(), 99)) == 4


def test_a_prompt_is_a_linear_function_of_itself(pocket, tokenizer, tmp_path) -> None:
    prompt = "def test_{}(self):"
    document = explain(
        pocket, tool="relations", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o",
        settings={"source": prompt, "target": prompt, "answers": 8},
    )  # fmt: skip
    found = document["survey"]
    assert found["correlation"] > 0.9
    assert abs(found["shuffled"]) < 0.3
    assert found["subjects"] == len(subjects_of(settings()))
    assert found["pairs"][0][0] == found["pairs"][0][1]  # an answer brings itself along
    page = (tmp_path / "o" / "report.html").read_text()
    assert "One answer from another" in page
    assert "What brings what along" in page


@pytest.mark.parametrize("shape", ["bert", "t5"])
def test_a_model_that_does_not_go_on_with_one_text_is_refused(shape, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="foretells the next token"):
        explain(tiny(shape), tool="relations", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o")


def test_subjects_of_a_file(tmp_path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(["  one ", "", "one", *map(str, range(20))]))
    assert subjects_of(settings(subjects=str(path))) == ["one", *map(str, range(20))]
    path.write_text("one\ntwo")
    with pytest.raises(UserError, match="holds 2 subjects"):
        subjects_of(settings(subjects=str(path)))
    with pytest.raises(UserError, match="cannot be"):
        Relations().check(settings(subjects=str(tmp_path / "none.txt")))


@pytest.mark.parametrize("given", [{"source": "no place"}, {"target": "{} and {}"}, {"answers": 1}, {"strength": 0.0}])
def test_what_cannot_be_asked_is_refused(given: dict) -> None:
    with pytest.raises(UserError):
        Relations().check(settings(**given))
