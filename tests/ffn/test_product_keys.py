"""Product-key memory and PEER, against a search over every slot, and as the dense layers they contain."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.ffn.mlp import MLP
from layersmith.ffn.peer import PEER
from layersmith.ffn.pkm import PKM

PARTS = {"peer": PEER, "pkm": PKM}


def memory(name, **config):
    torch.manual_seed(1)
    part = PARTS[name](**{"d_model": 6, "n_keys": 4, "heads": 2, "k": 3, "d_key": 8, **config}).double()
    with torch.no_grad():
        for p in part.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return part


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def by_loops(part, token, act=None):
    """One token. All n_keys^2 slots are scored with their whole keys; the k best of each head are summed."""
    search = part.search
    weight, bias, keys = search.query.weight.tolist(), search.query.bias.tolist(), search.keys.tolist()
    width = len(keys[0][0][0]) * 2
    query = [dot(row, token) + b for row, b in zip(weight, bias, strict=True)]
    y = [0.0] * len(token)
    for head, (first, second) in enumerate(keys):
        q = query[head * width : (head + 1) * width]
        if isinstance(search.norm, torch.nn.LayerNorm):
            mean = sum(q) / width
            spread = math.sqrt(sum((v - mean) ** 2 for v in q) / width + 1e-5)
            scale, shift = search.norm.weight.tolist(), search.norm.bias.tolist()
            q = [(v - mean) / spread * s + b for v, s, b in zip(q, scale, shift, strict=True)]
        scored = sorted(
            ((dot(q, a + b), i * len(second) + j) for i, a in enumerate(first) for j, b in enumerate(second)),
            reverse=True,
        )[: search.k]
        if part.spec()["weights"] == "softmax":
            total = sum(math.exp(s) for s, _ in scored)
            weights = [math.exp(s) / total for s, _ in scored]
        elif part.spec()["weights"] == "relu":
            weights = [max(0.0, s) for s, _ in scored]
        else:
            weights = [1 / (1 + math.exp(-s)) for s, _ in scored]
        for w, (_, slot) in zip(weights, scored, strict=True):
            if act is None:
                row = part.values[slot].tolist()
            else:
                row, w = part.down[slot].tolist(), w * act(dot(part.up[slot].tolist(), token))
            y = [s + w * v for s, v in zip(y, row, strict=True)]
    return y


def gelu(z):
    return z * 0.5 * (1 + math.erf(z / math.sqrt(2)))


CASES = [{}, {"k": 1}, {"k": 16}, {"weights": "relu"}, {"weights": "sigmoid", "query_norm": False}, {"heads": 1}]


@pytest.mark.oracle("pkm")
@pytest.mark.parametrize("config", CASES)
def test_pkm_by_loops_over_every_slot(x, config):
    part = memory("pkm", **config)
    for token, y in zip(x.reshape(-1, 6).tolist(), part(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(part, token), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("peer")
@pytest.mark.parametrize("config", [*CASES, {"act": "relu"}])
def test_peer_by_loops_over_every_expert(x, config):
    part = memory("peer", **config)
    act = (lambda z: max(0.0, z)) if config.get("act") == "relu" else gelu
    for token, y in zip(x.reshape(-1, 6).tolist(), part(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(part, token, act), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("peer")
def test_one_head_reading_every_expert_is_the_dense_mlp_with_softmax_weights(x):
    part, dense = memory("peer", heads=1, k=16), MLP(6, 16, act="gelu", bias=False).double()
    with torch.no_grad():
        dense.up.weight.copy_(part.up)
        dense.down.weight.copy_(part.down.T)
        tokens = x.reshape(-1, 6)
        q = part.search.norm(part.search.query(tokens))
        first, second = part.search.keys[0]
        keys = torch.cat([first.repeat_interleave(4, 0), second.repeat(4, 1)], 1)
        expected = (dense.act(dense.up(tokens)) * (q @ keys.T).softmax(-1)) @ dense.down.weight.T
        torch.testing.assert_close(part(x).reshape(-1, 6), expected, rtol=1e-9, atol=1e-12)
        part.search.query.weight.zero_()  # all scores equal: every expert weighs 1/16
        part.search.query.bias.zero_()
        part.search.norm.bias.zero_()
        torch.testing.assert_close(part(x), dense(x) / 16, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("pkm")
def test_pkm_reading_every_slot_is_softmax_attention_over_the_values(x):
    part = memory("pkm", heads=1, k=16)
    first, second = part.search.keys[0]
    keys = torch.cat([first.repeat_interleave(4, 0), second.repeat(4, 1)], 1)
    q = part.search.norm(part.search.query(x))
    expected = torch.nn.functional.scaled_dot_product_attention(q, keys[None], part.values[None], scale=1.0)
    torch.testing.assert_close(part(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PARTS)
def test_parameters_grow_with_the_memory_and_work_hardly(name):
    small, large = memory(name, n_keys=16, d_model=64, k=8), memory(name, n_keys=64, d_model=64, k=8)
    assert large.cost().params > 8 * small.cost().params
    assert large.cost().flops < 2 * small.cost().flops
    tables = 2 if name == "peer" else 1
    search = 64 * 16 + 16 + 2 * 8 + 2 * 2 * 64 * 4
    assert large.cost().active_params == search + tables * 2 * 8 * 64
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        large(torch.randn(3, 64, dtype=torch.double))
    assert counter.get_total_flops() == 2 * 3 * (64 * 16 + 2 * 2 * 64 * 4 + tables * 2 * 8 * 64)


@pytest.mark.parametrize("name", PARTS)
def test_float32_equals_float64(name):
    """The compiled kernels, where there are any, take float32; float64 takes the reference."""
    part = memory(name, d_model=64, n_keys=20, k=9).float()
    y = torch.randn(50, 64, generator=torch.Generator().manual_seed(2))
    single, double = part(y), part.double()(y.double())
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 17}, "k=17 slots for each head, but n_keys=4 makes only 16"),
        ({"k": 0}, "k must be a positive integer"),
        ({"d_key": 7}, "d_key must be even"),
        ({"weights": "hardmax"}, "weights must be one of softmax, sigmoid, relu"),
    ],
)
def test_bad_configuration_is_refused(name, config, message):
    with pytest.raises(ValueError, match=message):
        memory(name, **config)
