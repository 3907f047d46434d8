"""Linear algebra in tokens: read by hand, answered by numpy, judged within the tolerance."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
import torch

from layersmith.racing.task import IGNORED
from layersmith.racing.tasks.linear_algebra import ENCODINGS, LinearAlgebra, decoded, encoded, parts, rounded

from .small import draw, right

PROBLEMS = {
    "transpose": lambda a, b: a.T,
    "add": lambda a, b: a + b,
    "apply": lambda a, b: a @ b,
    "product": lambda a, b: a @ b,
    "inverse": lambda a, b: np.linalg.inv(a),
    "eigenvalues": lambda a, b: np.sort(np.linalg.eigvals(a).real)[::-1],
}


def by_hand(tokens: list[int], encoding: str) -> list[Decimal]:
    """Numbers of tokens, from the layout that the task tells: signs and mantissas first, then exponents from -8 on."""
    found = []
    width = {"p10": 5, "p1000": 3, "b1999": 2, "fp15": 1}[encoding]
    for n in range(0, len(tokens), width):
        one = tokens[n : n + width]
        if encoding == "p10":
            m, e = 100 * (one[1] - 2) + 10 * (one[2] - 2) + one[3] - 2, one[4] - 12 - 8
            m *= (-1) ** one[0]
        elif encoding == "p1000":
            m, e = (-1) ** one[0] * (one[1] - 2), one[2] - 1002 - 8
        elif encoding == "b1999":
            m, e = one[0] - 999, one[1] - 1999 - 8
        else:
            m, e = one[0] // 16 - 999, one[0] % 16 - 8
        assert m == 0 or 100 <= abs(m) <= 999
        assert -8 <= e <= 7
        found.append(Decimal(m).scaleb(e))
    return found


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_numpy_finds_the_answer_that_is_asked(problem: str, encoding: str) -> None:
    task = LinearAlgebra(problem, size=3, encoding=encoding)
    width = {"p10": 5, "p1000": 3, "b1999": 2, "fp15": 1}[encoding]
    batch = draw(task, 8)
    assert int(batch.inputs.max()) <= task.equals == task.n_inputs - 1
    for row, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        at = row.index(task.equals)
        question = np.array(by_hand(row[:at], encoding), dtype=float)
        a, b = question[:9].reshape(3, 3), question[9:].reshape(3, -1) if at > 9 * width else None
        want = PROBLEMS[problem](a, b).reshape(-1)
        assert set(targets[:at]) == {IGNORED}
        answer = np.array(by_hand(targets[at:], encoding), dtype=float)
        np.testing.assert_allclose(answer, want, rtol=6e-3, atol=1e-6)
        assert row[at + 1 :] == targets[at:-1]


def test_encodings_give_back_what_they_are_given() -> None:
    values = torch.tensor([[0.0, 1.23, -1.0, 9.996, 0.001, -999.0, 0.0123456, 1e10 - 1e7, 100.0, 3e-9, -0.05]]).double()
    want = [0, 1.23, -1.0, 10.0, 0.001, -999.0, 0.0123, 9.99e9, 100.0, 0.0, -0.05]
    for encoding in ENCODINGS:
        tokens = encoded(values, encoding)
        assert decoded(tokens, encoding)[0].tolist() == pytest.approx(want, rel=1e-12, abs=0)
        assert encoded(decoded(tokens, encoding), encoding).equal(tokens)
        assert [float(v) for v in by_hand(tokens[0].tolist(), encoding)] == pytest.approx(want, rel=1e-12)


def test_three_digits_are_kept_over_all_exponents() -> None:
    values = 10 ** (torch.rand(1, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 14 - 5)
    near = rounded(values)
    assert float(((near - values) / values).abs().max()) <= 0.005 + 1e-9
    m, _ = parts(values)
    assert int(m.min()) >= 100
    assert int(m.max()) <= 999


def test_tokens_in_the_wrong_place_are_no_number() -> None:
    for encoding, wrong in (("p10", [2, 5, 5, 5, 14]), ("p1000", [0, 1, 1005]), ("b1999", [999, 5]), ("fp15", [31984])):
        assert decoded(torch.tensor([wrong]), encoding).isnan().all(), encoding
    good = encoded(torch.tensor([[1.5]]).double(), "p10")[0].tolist()
    for place in range(5):
        bad = list(good)
        bad[place] = 28  # the sign of equality
        assert decoded(torch.tensor([bad]), "p10").isnan().all()


def test_an_answer_within_the_tolerance_is_right() -> None:
    task = LinearAlgebra("transpose", size=1, encoding="p1000", tolerance=0.05)
    batch = draw(task, 400, "test")
    for share, fits in ((1.04, True), (1.07, False)):
        said = batch.targets.clone()
        values = decoded(batch.targets[:, -3:], "p1000")
        said[:, -3:] = encoded(share * values, "p1000")
        batch_said = type(batch)(batch.inputs, said)
        score = task.score(right(task, batch_said), batch)
        assert score > 0.99 if fits else score < 0.01


def test_spectra_are_what_they_are_called() -> None:
    for spectrum in ("wigner", "laplace"):
        task = LinearAlgebra("eigenvalues", size=4, spectrum=spectrum)
        question, answer = task.drawn(torch.Generator().manual_seed(0), 4000)
        a = question.unflatten(1, (4, 4))
        assert a.equal(a.mT)
        values = answer.numpy()
        assert values.var() == pytest.approx(100 / 3 * 4, rel=0.1)
        kurtosis = ((values - values.mean()) ** 4).mean() / values.var() ** 2
        assert kurtosis == pytest.approx(6, rel=0.15) if spectrum == "laplace" else kurtosis < 3


def test_linear_problems_are_linear_and_others_are_not() -> None:
    for problem in ("transpose", "add"):
        assert LinearAlgebra(problem, size=2).yardsticks()["linear"] == 1.0
    for problem in ("product", "eigenvalues", "inverse"):
        assert LinearAlgebra(problem, size=2).yardsticks()["linear"] < 0.5
