"""What is read off a dictionary: shared features, pages, weights; and the tool that makes one for a site."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch

import layersmith
from layersmith.errors import UserError
from layersmith.explaining.dictionaries import pages, weights
from layersmith.explaining.dictionaries.agreement import agreement
from layersmith.explaining.dictionaries.recipe import Recipe
from layersmith.explaining.dictionaries.train import shuffled, train
from layersmith.explaining.dictionary import Dictionary, Reconstructed
from layersmith.explaining.pipeline import shuffled as control
from layersmith.explaining.tool import Observed
from layersmith.ffn.sparse_dictionary import SparseDictionary
from tests.explaining.planted import planted

D, FEATURES, K = 16, 48, 4


def dictionary(seed=0, activation="topk"):
    torch.manual_seed(seed)
    made = SparseDictionary(D, FEATURES, K, activation)
    with torch.no_grad():
        made.encoder.weight.add_(0.1 * torch.randn(FEATURES, D))
        made.encoder.bias.copy_(0.1 * torch.randn(FEATURES))
        made.output_scale.fill_(4.0)
    return made.eval().requires_grad_(False)


def permuted(made, order):
    state = {k: v[order] if v.shape[:1] == (FEATURES,) else v for k, v in made.state_dict().items()}
    other = dictionary(1)
    other.load_state_dict(state)
    return other


def test_a_permuted_copy_is_shared_whole_and_random_dictionaries_hardly():
    made = dictionary()
    order = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(1))
    found = agreement(made, permuted(made, order))
    assert torch.equal(order[found.partner], torch.arange(FEATURES))
    assert found.shared() == 1.0
    assert agreement(made, made).shared() == 1.0
    assert agreement(made, dictionary(7)).shared() < 0.2


def test_both_encoder_and_decoder_have_to_agree():
    made, other = dictionary(), dictionary()
    with torch.no_grad():
        other.encoder.weight[:10] = -other.encoder.weight[:10]
    assert agreement(made, other).shared() <= 38 / 48


def test_matching_is_one_to_one_and_of_the_largest_sum():
    """Greedy matching would take (0, 0) first and leave (1, 1), of which the sum is smaller."""
    first, second = SparseDictionary(2, 2, 1), SparseDictionary(2, 2, 1)

    def angle(a):
        return [math.cos(a), math.sin(a)]

    with torch.no_grad():
        for made, angles in ((first, (0.0, -0.3)), (second, (0.05, 1.2))):
            made.decoder.copy_(torch.tensor([angle(a) for a in angles]))
            made.encoder.weight.copy_(made.decoder)
    assert agreement(first, second).partner.tolist() == [1, 0]


def test_seeds_agree_on_planted_atoms_more_than_untrained_ones():
    rows, _ = planted(6000)
    recipe = Recipe(kind="sae", expansion=2, k=3, steps=500, batch=256, lr=3e-3, dead_after=2000)
    one, two = (train(shuffled(rows, rows, 256, seed), dataclasses.replace(recipe, seed=seed)) for seed in (0, 1))
    assert agreement(one, two).shared() > 0.5


def test_dictionaries_of_different_sizes_are_not_matched():
    with pytest.raises(UserError, match="same expansion"):
        agreement(dictionary(), SparseDictionary(D, FEATURES + 1, K))


@pytest.fixture
def seen():
    x = torch.randn(2500, D, generator=torch.Generator().manual_seed(3))
    y = torch.randn(2500, D, generator=torch.Generator().manual_seed(4)) + 2.0
    return x, y


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_activity_is_that_of_all_codes_at_once(seen, activation):
    x, y = seen
    made = dictionary(activation=activation)
    found = pages.activity(made, x, y)
    codes = made.codes(made.read(x))
    torch.testing.assert_close(found.density, (codes > 0).double().mean(0))
    torch.testing.assert_close(found.sums, codes.double().sum(0))
    assert found.active == pytest.approx(float((codes > 0).sum()) / 2500)
    error = (made(x).double() - y).square().sum() / (y.double() - y.double().mean(0)).square().sum()
    assert found.unexplained == pytest.approx(float(error), rel=1e-5)
    for feature in range(FEATURES):
        values, rows = codes[:, feature].topk(pages.PASSAGES)
        assert found.best[feature].tolist() == pytest.approx(values.tolist())
        assert [r for r in found.rows[feature].tolist() if r >= 0] == rows[values > 0].tolist()
        own = codes[:, feature][codes[:, feature] > 0]
        edges = [0.0, *(2.0**p for p in range(pages.LOWEST + 1, pages.HIGHEST)), float("inf")]
        expected = [int(((own >= a) & (own < b)).sum()) for a, b in pairwise(edges)]
        assert found.counts[feature].tolist() == expected


def test_pages_show_what_contributes_most_and_are_json(seen):
    x, y = seen
    made = dictionary()
    ids = torch.arange(2500) % 97
    found = pages.activity(made, x, y)
    made_pages = json.loads(json.dumps(pages.feature_pages(made, x, ids, found, 6)))
    order = [page["feature"] for page in made_pages["features"]]
    assert order == found.sums.topk(6).indices.tolist()
    codes = made.codes(made.read(x))
    page = made_pages["features"][0]
    own = codes[:, order[0]]
    assert page["density"] == pytest.approx(float((own > 0).double().mean()))
    assert page["mean"] == pytest.approx(float(own[own > 0].mean()), rel=1e-5)
    assert page["most"] == pytest.approx(float(own.max()))
    shown = page["passages"][0]
    start = shown["row"] - shown["at"]
    assert shown["row"] == int(own.argmax())
    assert shown["ids"] == ids[start : start + len(shown["ids"])].tolist()
    assert shown["codes"] == pytest.approx(own[start : start + len(shown["codes"])].tolist(), abs=1e-3)
    assert len(made_pages["density"]) == FEATURES
    assert pages.feature_pages(made, x, None, found, 1)["features"][0]["passages"][0]["ids"] is None


def test_a_feature_that_is_never_active_has_no_page(seen):
    x, y = seen
    made = dictionary(activation="relu")
    made.encoder.bias[5] = -1e6
    found = pages.feature_pages(made, x, None, pages.activity(made, x, y), FEATURES)
    assert 5 not in [page["feature"] for page in found["features"]]
    assert found["never"] == 1
    overview, table = (section["table"]["rows"] for section in found["sections"])
    assert ["never active on this text", 1] in overview
    assert [row[0] for row in table] == [f"feature {page['feature']}" for page in found["features"]]


def test_tokens_promoted_and_neighbours_and_heads():
    made = dictionary()
    table = torch.randn(30, D, generator=torch.Generator().manual_seed(5))
    (found,) = weights.promoted(made, torch.tensor([7]), table, top=3)
    logits = table @ made.decoder[7] / 4.0
    assert [token for token, _ in found["promoted"]] == logits.topk(3).indices.tolist()
    assert found["demoted"][0] == [int(logits.argmin()), pytest.approx(float(logits.min()), abs=1e-4)]
    (near,) = weights.neighbours(made, torch.tensor([7]))
    others = torch.nn.functional.cosine_similarity(made.decoder[7], made.decoder, dim=-1)
    others[7] = -2
    assert [entry["feature"] for entry in near] == others.topk(5).indices.tolist()
    shares = weights.head_shares(made, 4)
    assert float(shares[3, 1]) == pytest.approx(
        float(made.decoder[3, 4:8].norm() / sum(made.decoder[3, i : i + 4].norm() for i in (0, 4, 8, 12)))
    )
    with pytest.raises(UserError, match="do not divide"):
        weights.head_shares(made, 5)


def test_contributions_of_earlier_features_sum_to_the_pre_activation():
    """On a residual stream without a norm: stream + what the earlier dictionary writes is what the later one reads."""
    earlier, later = dictionary(), dictionary(2)
    later.input_scale.fill_(2.0)
    x = torch.randn(9, D, generator=torch.Generator().manual_seed(6))
    codes = earlier.codes(earlier.read(x))
    pre = later.pre(later.read(x + earlier(x)))
    for feature in (0, 11):
        direct = 2.0 * (x + earlier.bias / 4.0) @ later.encoder.weight[feature] + later.encoder.bias[feature]
        parts = codes * weights.connections(earlier, later, feature)
        torch.testing.assert_close(direct + parts.sum(-1), pre[:, feature])


@pytest.fixture(scope="module")
def pocket():
    model, _ = layersmith.load("pocket")
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def observed(pocket):
    """What the first feed-forward of pocket reads and writes on random tokens."""
    name = "model.layers.1.mlp"
    kept = []
    handle = pocket.get_submodule(name).register_forward_hook(lambda m, args, y: kept.append((args[0], y)))
    ids = torch.randint(0, 1000, (24, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pocket(ids)
    handle.remove()
    x, y = (tensor.reshape(-1, tensor.shape[-1]) for tensor in kept[0])
    return Observed(x, y, ids.flatten(), pocket.get_submodule(name))


SETTINGS = {"expansion": 2, "k": 16, "steps": 60, "batch": 256}


def test_the_tool_makes_a_transcoder_that_swap_and_save_take(pocket, observed, tmp_path):
    told = []
    found = Dictionary().explain(observed, SETTINGS, told.append)
    width = observed.inputs.shape[1]
    assert found.size["features"] == 2 * width
    assert 1 <= found.size["active"] <= 16
    assert told[-1] == 1.0
    assert told == sorted(told)
    assert found.pages["unexplained"] < 1.0, "better than the mean output"
    json.dumps(found.pages)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = pocket(ids).logits
        with layersmith.swap(pocket, {"layers.1.ffn": found.module}):
            inside = pocket(ids).logits
        assert torch.equal(pocket(ids).logits, before)
        assert not torch.equal(inside, before)
        model, _ = layersmith.load("pocket")
        edits = layersmith.apply(model, {"layers.1.ffn": found.module})
        layersmith.save(model, edits, tmp_path / "model")
        again, _ = layersmith.load(str(tmp_path / "model"))
        rounded = (again(ids).logits - inside).abs().max()  # pocket's weights are stored in half precision
        assert rounded < 0.01 * (inside - before).abs().max()


def test_an_autoencoder_stands_behind_the_sublayer(pocket, observed):
    found = Dictionary().explain(observed, {**SETTINGS, "kind": "sae"}, lambda share: None)
    assert isinstance(found.module, Reconstructed)
    assert not any("_original" in name for name, _ in found.module.named_parameters())
    expected = found.module.dictionary(observed.module(observed.inputs[:5]))
    torch.testing.assert_close(found.module(observed.inputs[:5]), expected)
    with layersmith.swap(pocket, {"layers.1.ffn": found.module}), torch.no_grad():
        assert torch.isfinite(pocket(torch.arange(9)[None]).logits).all()


def test_the_control_of_an_autoencoder_learns_no_more_than_the_mean(observed):
    def unexplained(seen):
        long = {**SETTINGS, "kind": "sae", "steps": 300}  # what it begins as copies a little of what it reads
        made = Dictionary().explain(seen, long, lambda share: None).module
        wrong = (made(observed.inputs) - observed.outputs).square().sum()
        return float(wrong / (observed.outputs - observed.outputs.mean(0)).square().sum())

    assert unexplained(observed) < 0.8
    assert unexplained(control(observed, seed=0)) > 0.95


def test_a_tuple_stays_a_tuple(observed):
    class Attention(torch.nn.Module):
        def forward(self, x, scale):
            return scale * x, "weights"

    made = dictionary()
    y, rest = Reconstructed(Attention(), made)(torch.ones(2, D), scale=3.0)
    assert rest == "weights"
    assert torch.equal(y, made(3.0 * torch.ones(2, D)))


def test_sites_and_texts_that_do_not_do_are_refused(observed):
    few = dataclasses.replace(observed, inputs=observed.inputs[:50], outputs=observed.outputs[:50])
    with pytest.raises(UserError, match="Too little text"):
        Dictionary().explain(few, SETTINGS, lambda share: None)
    narrow = dataclasses.replace(observed, outputs=observed.outputs[:, :10])
    with pytest.raises(UserError, match='kind="sae"'):
        Dictionary().explain(narrow, SETTINGS, lambda share: None)

    class Attention(torch.nn.Module):
        def forward(self, x, position_embeddings):
            return x + position_embeddings

    mixer = dataclasses.replace(observed, module=Attention())
    with pytest.raises(UserError, match="does not work token by token"):
        Dictionary().explain(mixer, {**SETTINGS, "kind": "sae"}, lambda share: None)
    with pytest.raises(UserError, match="no setting"):
        Dictionary().explain(observed, {"kk": 3}, lambda share: None)
