"""UltraMem, against a loop over all slots, and as the product-key memory it contains."""

import math

import pytest
import torch

from layersmith.contract import aux_losses
from layersmith.ffn.pkm import PKM
from layersmith.ffn.ultra_mem import UltraMem


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def memory(**config) -> UltraMem:
    torch.manual_seed(1)
    sizes = {"d_model": 6, "n_keys": 4, "k": 4, "d_key": 5, "cores": 2, "expansion": 4}
    made = UltraMem(**{**sizes, **config}).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def normalised(v, norm):
    if isinstance(norm, torch.nn.Identity):
        return v
    mean = sum(v) / len(v)
    spread = math.sqrt(sum((a - mean) ** 2 for a in v) / len(v) + 1e-5)
    return [(a - mean) / spread * w + b for a, w, b in zip(v, norm.weight.tolist(), norm.bias.tolist(), strict=True)]


def by_loops(m: UltraMem, token: list[float], u=None, t=None) -> list[float]:
    """One token. With u and t, only rows and columns that the filter keeps; without them, every slot is scored."""
    _, rank, n, d_key = m.keys.shape
    q = [dot(w, token) + b for w, b in zip(m.query.weight.tolist(), m.query.bias.tolist(), strict=True)]
    queries = [normalised(q[:d_key], m.query_norm), normalised(q[d_key:], m.query_norm)]
    score = [
        [[dot(queries[s], normalised(m.keys[s, r, i].tolist(), m.key_norm)) for r in range(rank)] for i in range(n)]
        for s in (0, 1)
    ]
    rows = columns = range(n)
    if u is not None:
        rows = sorted(range(n), key=lambda i: -dot(u, score[0][i]))[: m.k]
        columns = sorted(range(n), key=lambda j: -dot(t, score[1][j]))[: m.k]
    found = []
    for i in rows:
        for j in columns:
            each = [
                sum(score[0][i][a] * c[a][b] * score[1][j][b] for a in range(rank) for b in range(rank))
                for c in m.core.tolist()
            ]
            found.append((sum(each), i * n + j, each))
    width = m.values.shape[1]
    pooled = [[0.0] * width for _ in range(m.expansion)]
    for _, slot, each in sorted(found, reverse=True)[: m.k]:
        block, value = (int(v) for v in m.place(torch.tensor(slot)))
        for d in range(width):
            pooled[block][d] += each[d // (width // len(each))] * m.values[value, d].item()
    return [dot(row, [v for block in pooled for v in block]) for row in m.down.weight.tolist()]


@pytest.mark.oracle("ultra_mem")
@pytest.mark.parametrize("config", [{}, {"k": 16}, {"cores": 3, "rank": 3}, {"expansion": 1, "normalise": False}])
def test_without_a_filter_it_scores_every_slot(x, config):
    m = memory(**config)  # k >= n_keys: all rows and columns are kept
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("ultra_mem")
@pytest.mark.parametrize("k", [1, 2, 3])
def test_filter_by_the_leading_singular_pair(x, k):
    m = memory(k=k)
    left, size, right = torch.linalg.svd(m.core.sum(0).detach())
    u, t = m.leading()
    torch.testing.assert_close(size[0] * torch.outer(u, t), size[0] * torch.outer(left[:, 0], right[0]))
    assert u.sum() >= 0
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token, u.tolist(), t.tolist()), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("ultra_mem")
def test_product_key_memory_is_a_special_case(x):
    """S_row = (s_i, 1), S_col = (1, s_j), C = I: the score is s_i + s_j."""
    pkm = PKM(6, n_keys=4, heads=1, k=4, d_key=8, weights="relu", query_norm=False).double()
    m = memory(d_key=5, cores=1, expansion=1, act="relu", normalise=False)
    with torch.no_grad():
        m.query.weight.zero_()
        m.query.bias.zero_()
        m.keys.zero_()
        for side in (0, 1):
            at = slice(5 * side, 5 * side + 4)
            m.query.weight[at] = pkm.search.query.weight[4 * side : 4 * side + 4]
            m.query.bias[at] = pkm.search.query.bias[4 * side : 4 * side + 4]
            m.query.bias[5 * side + 4] = 1.0
            m.keys[side, side, :, :4] = pkm.search.keys[0, side]
            m.keys[side, 1 - side, :, 4] = 1.0
        m.core.copy_(torch.eye(2)[None])
        _, value = m.place(torch.arange(16))
        m.values[value] = pkm.values
        m.down.weight.copy_(torch.eye(6))
    torch.testing.assert_close(m(x), pkm(x), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("ultra_mem")
def test_core_loss_by_formula(x):
    m = memory(rank=3, tau=0.05, aux_weight=0.5).train()
    m(x)
    sizes = torch.linalg.svdvals(m.core.sum(0))[1:].tolist()
    expected = 0.5 * sum(max(0.0, s - 0.05) ** 2 for s in sizes) / 2
    assert aux_losses(m)["core"].item() == pytest.approx(expected, rel=1e-9)
    assert expected > 0
    assert aux_losses(memory().eval()) == {}


@pytest.mark.parametrize(("n_keys", "expansion"), [(4, 4), (8, 4), (6, 9), (5, 1)])
def test_every_value_stands_once_in_every_block(n_keys, expansion):
    m = memory(n_keys=n_keys, expansion=expansion)
    block, value = m.place(torch.arange(n_keys**2))
    assert len({*zip(block.tolist(), value.tolist(), strict=True)}) == n_keys**2
    assert block.max() < expansion


def test_cost_reads_k_values():
    small, large = memory(n_keys=16), memory(n_keys=64)
    assert large.cost().params > 5 * small.cost().params
    for m in (small, large):
        assert m.cost().active_params == m.cost().params - (len(m.values) - 4) * 6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 17}, "k=17 slots to read"),
        ({"expansion": 3}, "expansion=3 must divide the 16 slots"),
        ({"cores": 4}, "cores=4 must divide d_value=6"),
        ({"tau": -1.0}, "tau and aux_weight"),
        ({"act": "nothing"}, "Unknown activation"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        memory(**config)
