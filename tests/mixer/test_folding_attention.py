"""Folding attention by loops over sub-tokens; not folded it is softmax attention; what a fold saves."""

import math

import pytest
import torch

from layersmith.mixer.folding_attention import FoldingAttention
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, close, inputs, part, softmax


@torch.no_grad()
@pytest.mark.oracle("folding_attention")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("fold", [2, 4])
def test_equals_loops(fold, causal):
    m, x = part("folding_attention", fold=fold, causal=causal, bias=True), inputs(5)
    width = D // fold
    size, a = width // 2, m.attention
    expected = torch.zeros_like(x)
    for b, text in enumerate(x):
        pieces = [text[t, n * width : (n + 1) * width] for t in range(5) for n in range(fold)]
        for i, piece in enumerate(pieces):
            token, n = divmod(i, fold)
            joined = torch.zeros(width, dtype=torch.float64)
            for own in (slice(0, size), slice(size, 2 * size)):
                seen = [j for j in range(5 * fold) if not causal or j // fold <= token]
                weights = softmax([float(a.q(piece)[own] @ a.k(pieces[j])[own]) / math.sqrt(size) for j in seen])
                for j, weight in zip(seen, weights, strict=True):
                    joined[own] += weight * a.v(pieces[j])[own]
            expected[b, token, n * width : (n + 1) * width] = a.o(joined)
    close(m(x)[0], expected)


@torch.no_grad()
@pytest.mark.oracle("folding_attention")
@pytest.mark.parametrize("config", [{"n_kv_heads": 1, "rope_theta": 100.0}, {"causal": False}])
def test_not_folded_it_is_softmax_attention(config):
    m, plain = part("folding_attention", fold=1, **config), SoftmaxAttention(D, 2, **config).double()
    plain.load_state_dict({name.removeprefix("attention."): t for name, t in m.state_dict().items()})
    x, mask = inputs(), torch.tensor([[True] * 7, [False] * 2 + [True] * 5])
    close(m(x, mask=mask)[0][mask], plain(x, mask=mask)[0][mask])


def test_weights_shrink_with_the_square_of_the_fold_and_maps_with_the_fold():
    folded, plain = FoldingAttention(64, 2, fold=4).cost(1, 8), SoftmaxAttention(64, 2).cost(1, 8)
    assert plain.params == 16 * folded.params
    scores = 4 * 8 * 8 * 64  # of the plain one: two products over all pairs
    assert folded.flops == (plain.flops - scores) / 4 + 4 * scores
    with pytest.raises(ValueError, match="multiple of fold=3"):
        FoldingAttention(64, 2, fold=3)
