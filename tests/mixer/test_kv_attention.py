"""Key-value attention by loops; it is attention with tied queries, symmetric unless places come in."""

import math

import pytest
import torch

from layersmith.mixer.kv_attention import KVAttention
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, close, inputs, part, softmax


def encoding(place):
    return [math.cos(place), math.cos(place / 100), math.sin(place), math.sin(place / 100)]


@torch.no_grad()
@pytest.mark.oracle("kv_attention")
@pytest.mark.parametrize("causal", [True, False])
def test_equals_loops(causal):
    m, x = part("kv_attention", d_position=4, causal=causal), inputs()
    expected = []
    for text in x:
        heads = []
        for head, own in enumerate((slice(0, 8), slice(8, 16))):
            k, v, order = m.k(text)[:, own], m.v(text)[:, own], m.order[head].tolist()
            rows = []
            for i in range(len(text)):
                scores = []
                for j in range(i + 1 if causal else len(text)):
                    of_places = sum(
                        a * order[p][q] * b for p, a in enumerate(encoding(i)) for q, b in enumerate(encoding(j))
                    )
                    scores.append(float(k[i] @ k[j]) / math.sqrt(8) + of_places)
                rows.append(softmax(scores) + [0.0] * (len(text) - len(scores)))
            heads.append(torch.tensor(rows, dtype=torch.float64) @ v)
        expected.append(m.o(torch.cat(heads, 1)))
    close(m(x)[0], torch.stack(expected))


@torch.no_grad()
@pytest.mark.oracle("kv_attention")
@pytest.mark.parametrize("config", [{"rope_theta": 100.0, "scale": 0.5}, {"causal": False, "bias": True}])
def test_it_is_softmax_attention_with_queries_that_are_keys(config):
    m, x = part("kv_attention", **config), inputs()
    plain = SoftmaxAttention(D, 2, **config).double()
    state = m.state_dict()
    plain.load_state_dict(state | {n.replace("k.", "q."): t for n, t in state.items() if n.startswith("k.")})
    close(m(x)[0], plain(x)[0])


@torch.no_grad()
def test_scores_are_symmetric_without_places():
    m, x = part("kv_attention", causal=False), inputs()
    q, k, _ = m.project(x, None, None)
    close(m.scores(q, k), m.scores(q, k).mT)


def test_it_has_one_matrix_less_and_bad_settings_are_refused():
    assert SoftmaxAttention(D, 2).cost().params - KVAttention(D, 2).cost().params == D * D
    with pytest.raises(ValueError, match="must be even"):
        KVAttention(D, 2, d_position=3)
