"""Rules for latents: planted ones are predicted, distributions are kept, and verdicts go the right way."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import layersmith
from layersmith import catalogue

CLAIMS = Path(__file__).resolve().parents[2] / "benchmarks" / "claims"
VOCABULARY = 6


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    return _claim("latent_rules")


@pytest.fixture(scope="module")
def claim() -> ModuleType:
    return _claim("partial_rewrite")


def _claim(name: str) -> ModuleType:
    before = list(sys.path)
    sys.path.insert(0, str(CLAIMS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = before  # the script adds folders of its own


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse(rows: int, latents: int, seed: int = 0) -> Tensor:
    """Codes, float64, of which two thirds are 0."""
    codes = torch.rand(rows, latents, generator=drawn(seed), dtype=torch.float64)
    return torch.where(codes > 2 / 3, codes, 0.0)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_contexts_are_equal_where_the_last_tokens_of_the_window_are(rules: ModuleType, tokens: int) -> None:
    """Token 0 is not the beginning of a window, and no window goes on in the next one."""
    ids = torch.randint(VOCABULARY, (20, 30), generator=drawn(0))
    ids[:, 0] = 0
    ids[0, -2:] = torch.tensor([5, 0])
    found = rules.contexts(ids, tokens, VOCABULARY).tolist()
    told = [tuple(row[max(0, at + 1 - tokens) : at + 1]) for row in ids.tolist() for at in range(len(row))]
    assert VOCABULARY <= len(set(told)) < len(told)
    assert [found.index(one) for one in found] == [told.index(one) for one in told]


@pytest.mark.parametrize("prior", [0.0, 1.0, 2.5])
def test_a_rule_expects_the_mean_of_what_it_saw(rules: ModuleType, prior: float) -> None:
    seen, asked = torch.tensor([3, 9, 3, 3, 11, 7, 9]), torch.tensor([9, 2, 3, 12, 11, 3])
    codes, otherwise = sparse(7, 4), sparse(6, 4, seed=1) + 1
    found = rules.expected(seen, codes, asked, otherwise, prior)
    for row, context in enumerate(asked.tolist()):
        same = [codes[i] for i, other in enumerate(seen.tolist()) if other == context]
        total = sum(same, torch.zeros(4, dtype=torch.float64)) + prior * otherwise[row]
        wanted = total / (len(same) + prior) if same else otherwise[row]
        torch.testing.assert_close(found[row], wanted)


def test_planted_latents_are_predicted_by_the_rule_that_reads_as_much(rules: ModuleType) -> None:
    """Of one latent a function of the token, of one a function of two tokens: the longer rule has both exactly."""
    fitted, held_out = (torch.randint(VOCABULARY, (40, 30), generator=drawn(seed)) for seed in (0, 1))
    one, two = torch.rand(VOCABULARY, generator=drawn(2)), torch.rand(VOCABULARY + 1, VOCABULARY, generator=drawn(3))

    def planted(ids: Tensor) -> Tensor:
        before = F.pad(ids, (1, 0), value=VOCABULARY)[:, :-1]
        return torch.stack([one[ids], two[before, ids]], dim=-1).flatten(0, 1)

    codes, true = planted(fitted), planted(held_out)
    found, wrong = codes.mean(0).expand_as(true), []
    for tokens in (1, 2):
        seen, asked = (rules.contexts(ids, tokens, VOCABULARY) for ids in (fitted, held_out))
        found = rules.expected(seen, codes, asked, found, prior=0.0)
        wrong.append((found - true).abs().amax(0).tolist())
    assert wrong[0][0] < 1e-6
    assert wrong[0][1] > 0.1
    assert max(wrong[1]) < 1e-6


def test_a_short_rule_names_the_tokens_with_the_largest_sums(rules: ModuleType) -> None:
    """Token 4 is seen once, more strongly than any: sums choose, means are said. Unseen tokens have 0."""
    seen = torch.tensor([1, 1, 1, 1, 4, 2, 2, 5])
    codes = torch.tensor([2.0, 1.0, 2.0, 1.0, 5.0, 3.0, 3.0, 0.25])[:, None].double()
    codes = torch.cat([codes, (seen == 5)[:, None] * 3.0], dim=1)
    found = rules.named(seen, codes, torch.tensor([5, 4, 3, 2, 1]), 2)
    assert found[:, 0].tolist() == [0, 0, 0, 3, 1.5]
    assert found[:, 1].tolist() == [3, 0, 0, 0, 0]
    everything = rules.named(seen, codes, seen, 99)
    torch.testing.assert_close(everything, rules.expected(seen, codes, seen, torch.zeros_like(codes), 0.0))


def test_levels_are_quantiles_of_the_distribution(rules: ModuleType) -> None:
    """Of ten values the middles of five shares; zeros, which are the lowest, are left out."""
    codes = torch.stack([torch.arange(1.0, 11), torch.tensor([0.0, 0, 0, 0, 0, 0, 8, 7, 9, 6]), torch.zeros(10)], dim=1)
    mixed = codes[torch.randperm(10, generator=drawn(0))]
    assert [values.tolist() for values in rules.levels(mixed, 5)] == [[9, 7, 5, 3, 1], [8, 6], []]
    assert [len(values) for values in rules.levels(mixed, 20)] == [20, 8, 0]


def test_normalised_predictions_have_the_true_values_in_their_own_order(rules: ModuleType) -> None:
    true = sparse(300, 7)
    predicted = (4 * torch.randn(300, 7, generator=drawn(1), dtype=torch.float64)).round()  # with many ties
    found = rules.normalised(predicted, rules.levels(true, 300), drawn(2))
    torch.testing.assert_close(found.sort(dim=0).values, true.sort(dim=0).values, rtol=0, atol=0)
    for latent in range(7):
        for level in predicted[:, latent].unique():
            above, here = (
                found[side, latent] for side in (predicted[:, latent] > level, predicted[:, latent] == level)
            )
            assert above.numel() == 0 or above.min() >= here.max()
    assert torch.equal(rules.normalised(true, rules.levels(true, 300), drawn(2)), true), "what is right stays"


def test_ties_come_in_a_random_order_of_their_own_for_each_latent(rules: ModuleType) -> None:
    target = [torch.ones(50, dtype=torch.float64)] * 400
    found = rules.normalised(torch.zeros(200, 400, dtype=torch.float64), target, drawn(0))
    assert torch.equal(found.sum(0), torch.full((400,), 50.0, dtype=torch.float64))
    often = found.sum(1)  # of 400 draws at a chance of 1/4: mean 100, deviation 8.7
    assert often.min() > 60
    assert often.max() < 140


def test_only_the_largest_are_left(rules: ModuleType) -> None:
    codes = torch.tensor([[0.5, 0.0, 2.0, 1.0], [0.0, 3.0, 0.0, 0.0]])
    assert rules.only_largest(codes, 2).tolist() == [[0, 0, 2, 1], [0, 3, 0, 0]]
    assert torch.equal(rules.only_largest(codes, 4), codes)


def test_shares_are_resampled_with_part_and_whole_together(claim: ModuleType) -> None:
    whole = torch.rand(400, generator=drawn(0), dtype=torch.float64) + 0.1
    assert claim.share(0.3 * whole, whole) == pytest.approx((0.3, 0.3, 0.3))
    part = 0.5 + torch.randn(400, generator=drawn(1), dtype=torch.float64)
    mean, low, high = claim.share(part, torch.ones_like(part))
    assert mean == pytest.approx(float(part.mean()))
    assert high - low == pytest.approx(2 * 1.96 * float(part.std()) / 20, rel=0.1)
    assert low < mean < high


def planted_subject() -> tuple[SimpleNamespace, Tensor]:
    """Text in which every token is as frequent, and latents that are functions of the token."""
    ids = torch.stack([torch.randperm(VOCABULARY, generator=drawn(seed)) for seed in range(8)])
    text = SimpleNamespace(ids=ids)
    table = torch.rand(VOCABULARY, 5, generator=drawn(9), dtype=torch.float64) * (torch.arange(VOCABULARY) > 2)[:, None]
    return SimpleNamespace(fitted=text, held_out=text, vocabulary=VOCABULARY), table[ids.flatten()]


def test_what_stands_for_the_latents(claim: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "K", 5)
    subject, codes = planted_subject()
    found = dict(claim.simulated(subject, codes, codes, drawn(0)))
    right = ["transcoder", "transcoder, normalised", "named, expected", *(f"{r}, normalised" for r in claim.RULES)]
    for way in right:
        torch.testing.assert_close(found[way], codes, msg=way)
    assert not found["no latents"].any()
    for way in ("rules exchanged", "random"):
        torch.testing.assert_close(found[way].sort(dim=0).values, codes.sort(dim=0).values, msg=way)
        assert (found[way] - codes).abs().max() > 0.1, way
    other = dict(claim.simulated(subject, codes, sparse(*codes.shape, seed=5), drawn(0)))
    assert all(torch.equal(found[way], other[way]) for way in found if not way.startswith("transcoder"))
    monkeypatch.setattr(claim, "K", 2)
    kept = dict(claim.simulated(subject, codes, codes, drawn(0)))
    for way in found:
        most = 5 if way in ("transcoder", "no latents") or way.endswith("expected") else 2
        assert (kept[way] > 0).sum(1).max() <= most, way


def test_given_outputs_stand_in_the_sublayers_place(claim: ModuleType) -> None:
    """Its own outputs leave each window's loss as the model has it; zeros are the part `zero`."""
    subject = claim.Subject(256, 10 * 256)
    text, own = subject.held_out, subject.held_out.outputs
    assert text.ids.shape == (10, 256)
    assert not {tuple(row) for row in subject.fitted.ids.tolist()} & {tuple(row) for row in text.ids.tolist()}

    def direct() -> Tensor:
        with torch.no_grad():
            logits = subject.model(input_ids=text.ids).logits[:, :-1].double()
        return F.cross_entropy(logits.transpose(1, 2), text.ids[:, 1:], reduction="none").mean(1)

    torch.testing.assert_close(subject.losses(own), direct(), rtol=0, atol=1e-5)
    zero = catalogue.build({"name": "zero", "d_model": subject.site.d_model})
    with layersmith.swap(subject.model, {subject.site.name: zero}):
        without = direct()
    torch.testing.assert_close(subject.losses(torch.zeros_like(own)), without, rtol=0, atol=1e-5)
    assert (without - direct()).mean() > 0.01


@pytest.mark.parametrize(
    ("costs", "seeds", "below", "found"),
    [
        ((0.2, 0.1, 0.3), [0.1, 0.3], True, "held"),
        ((0.2, 0.1, 0.3), [0.1, 0.3], False, "did not hold"),
        ((0.9, 0.7, 1.1), [0.8, 1.0], False, "held"),
        ((0.9, 0.7, 1.1), [0.8, 1.0], True, "did not hold"),
        ((0.6, 0.4, 0.8), [0.6, 0.6], True, "not seen at this size"),
        ((0.7, 0.6, 0.8), [0.4, 1.0], False, "not seen at this size"),
    ],
)
def test_verdicts(
    claim: ModuleType, costs: tuple[float, float, float], seeds: list[float], below: bool, found: str
) -> None:
    assert claim.verdict(costs, seeds, 0.5, below) == found


@pytest.mark.parametrize(
    ("rules_cost", "found"),
    [
        ((0.9, 1.0, 1.3), "held"),
        ((0.3, 0.4, 0.5), "did not hold"),
        ((0.9, 0.4, 0.8), "partly"),
        ((0.9, 0.8, 0.9), "not seen at this size"),
    ],
)
def test_both_claims_are_written(
    claim: ModuleType, rules_cost: tuple[float, ...], found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.modules["record"], "RESULTS", tmp_path)
    monkeypatch.setattr(claim, "K", 5)
    subject, codes = planted_subject()
    subject.site = SimpleNamespace(name="layers.4.ffn", d_model=192)
    ways = {way: 0.3 for way, _ in claim.simulated(subject, codes, codes, drawn(0))}
    ways |= {f"{rule}, normalised": cost for rule, cost in zip(claim.RULES, rules_cost, strict=True)}
    costs = {way: (cost, cost - 0.02, cost + 0.02) for way, cost in ways.items()}
    rows = [{"way": way, "loss": 3.0, "share": 1.0} for way in ("pocket", "zero", "mean")]
    claim.save(subject, rows, costs, {way: [cost, cost] for way, cost in ways.items()})
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "claims").glob("*.json")}
    assert {name: one["verdict"] for name, one in written.items()} == {
        "partial_rewrite-transcoder": "held",
        "partial_rewrite-rules": found,
    }
    assert f"{rules_cost[2]:.2f} (" in written["partial_rewrite-rules"]["measured"]
