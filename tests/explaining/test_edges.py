"""Edges: planted channels rank first, cutting one off costs what its score says, and noise is not told from noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layersmith.errors import UserError
from layersmith.explaining.edges import Edges, cut_to, fit
from layersmith.explaining.measures.edges import SCORES, importance, without
from layersmith.explaining.pipeline import explain, shuffled
from layersmith.explaining.tool import Observed
from layersmith.ffn.kan import KAN
from tests.explaining.conftest import tiny

SETTINGS = {**Edges.settings, "steps": 200, "hidden": 12}


class Friedman(nn.Module):
    """Friedman's first function of five of ten channels, written to two outputs; the others do nothing."""

    def forward(self, x):
        u = x.sigmoid()
        y = torch.zeros_like(x)
        y[..., 0] = torch.sin(torch.pi * u[..., 0] * u[..., 1]) * 10 + 20 * (u[..., 2] - 0.5) ** 2
        y[..., 1] = 10 * u[..., 3] + 5 * u[..., 4]
        return y


def observed(rows: int = 1500) -> Observed:
    x = 1.5 * torch.randn(rows, 10, generator=torch.Generator().manual_seed(0))
    return Observed(x, Friedman()(x), None, Friedman())


@pytest.fixture(scope="module")
def fitted():
    seen = observed()
    return fit(seen.inputs, seen.outputs, SETTINGS, lambda share: None)


def test_channels_that_count_rank_above_those_that_do_not(fitted) -> None:
    seen = observed()
    scores = importance(fitted.kan, fitted.read(seen.inputs), fitted.targets(seen.outputs))
    assert set(scores) == set(SCORES)
    for name, score in scores.items():
        assert float(score.sum()) == pytest.approx(1.0, abs=1e-4)
        assert score[:5].min() > score[5:].max(), name


def small() -> KAN:
    torch.manual_seed(0)
    kan = KAN(3, 4, size=5).double()
    with torch.no_grad():
        kan.up.coefficients.normal_()
        kan.up.base.weight[:, 2] = 0.0
        kan.up.coefficients[:, 2] = 0.0
    return kan


def test_scores_by_hand_and_an_input_without_edges_counts_nothing() -> None:
    kan = small()
    x, y = torch.randn(7, 3).double(), torch.randn(7, 3).double()
    found, sums = importance(kan, x, y), {"l1": [], "l2": [], "knockout": []}
    base, coefficients = kan.up.base.weight, kan.up.coefficients
    with torch.no_grad():
        error = float((kan(x) - y).square().mean())
        for i in range(3):
            values = kan.up.basis(x[:, i : i + 1])[:, 0]
            edges = [
                [float(b[i] * kan.up.act(x[n, i]) + values[n] @ c[i]) for b, c in zip(base, coefficients, strict=True)]
                for n in range(7)
            ]
            flat = torch.tensor(edges, dtype=torch.float64).flatten()
            sums["l1"].append(float(flat.abs().mean()))
            sums["l2"].append(float(flat.square().mean().sqrt()))
            with without(kan, [i]):
                sums["knockout"].append(max(0.0, float((kan(x) - y).square().mean()) - error))
    for name, expected in sums.items():
        total = sum(expected)
        assert found[name].tolist() == pytest.approx([e / total if total else 0.0 for e in expected], abs=1e-9), name
    for name in SCORES:
        assert float(found[name][2]) == 0.0, name
    step, slopes = 1e-6, []
    for i in range(3):
        moved = x.clone()
        moved[:, i] += step
        with torch.no_grad():
            slopes.append(float(((kan(moved).abs().sum(1) - kan(x).abs().sum(1)) / step).abs().mean()))
    assert found["sensitivity"].tolist() == pytest.approx([s / sum(slopes) for s in slopes], abs=1e-4)


def test_cutting_edges_off_and_putting_them_back() -> None:
    kan, x = small(), torch.randn(5, 3).double()
    before = kan(x)
    with without(kan, [0]):
        assert not torch.allclose(kan(x), before)
        moved = x.clone()
        moved[:, 0] += 5.0
        torch.testing.assert_close(kan(moved), kan(x))
    assert torch.equal(kan(x), before)


def test_what_is_cut_to_all_its_inputs_is_as_it_was(fitted) -> None:
    x = observed(20).inputs
    assert torch.equal(cut_to(fitted, list(range(10)))(x), fitted(x))
    found = cut_to(fitted, [0, 1])
    moved = x.clone()
    moved[:, 5:] += 3.0
    torch.testing.assert_close(found(moved), found(x))


def test_the_first_channels_of_every_ranking_are_a_better_stand_in_than_random_ones() -> None:
    seen = observed()
    made = Edges().explain(seen, {**SETTINGS, "keep": 0.5}, lambda share: None)
    wrong = {name: float((module(seen.inputs) - seen.outputs).square().sum()) for name, module in made.controls.items()}
    random = wrong.pop("5 at random")
    whole = float((made.module(seen.inputs) - seen.outputs).square().sum())
    assert len(wrong) == 4
    assert all(error < 0.5 * random for error in wrong.values())
    assert whole < 0.1 * float((seen.outputs - seen.outputs.mean(0)).square().sum())
    control = Edges().explain(shuffled(seen, 0), {**SETTINGS, "steps": 60}, lambda share: None)
    rest = seen.outputs - seen.outputs.mean(0)
    assert float((control.module(seen.inputs) - seen.outputs).square().sum()) > 0.9 * float(rest.square().sum())


def test_a_whole_run_and_its_page(tokenizer, tmp_path) -> None:
    found = explain(
        tiny("llama"), tool="edges", tokenizer=tokenizer, sites="layers.1.ffn", tokens=256, progress=False,
        settings={"steps": 5, "hidden": 4}, out=tmp_path / "o",
    )  # fmt: skip
    (site,) = found["sites"]
    assert {"first 13 by knockout", "13 at random", "explanation"} <= site["table"].keys()
    assert "Channels" in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.parametrize("given", [{"keep": 1.0}, {"size": 3}, {"lr": 0.0}, {"steps": 0}])
def test_settings_that_cannot_be_are_refused(given: dict) -> None:
    with pytest.raises(UserError, match="The setting"):
        Edges().check({**Edges.settings, **given})
