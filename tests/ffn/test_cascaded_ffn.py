"""Cascaded-chunk feed-forward: an oracle, the MLP at one chunk, and what a chunk may read."""

import pytest
import torch

from layersmith.ffn.cascaded_ffn import CascadedFFN
from layersmith.ffn.mlp import MLP

D, HIDDEN = 6, 12


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(chunks: int, **config) -> CascadedFFN:
    torch.manual_seed(1)
    return CascadedFFN(D, HIDDEN, chunks, **config).double()


def affine(token: list[float], linear: torch.nn.Linear) -> list[float]:
    rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, token, strict=True)) + b for row, b in rows]


@pytest.mark.oracle("cascaded_ffn")
@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_by_loops(x, chunks):
    m, size = part(chunks), D // chunks
    for token, y in zip(x.reshape(-1, D).tolist(), m(x).reshape(-1, D).tolist(), strict=True):
        expected, before = [], [0.0] * size
        for i, small in enumerate(m.parts):
            u = [a + b for a, b in zip(token[i * size : (i + 1) * size], before, strict=True)]
            before = affine([max(0.0, v) for v in affine(u, small.up)], small.down)
            expected += before
        assert y == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle("cascaded_ffn")
def test_one_chunk_is_the_mlp(x):
    m, mlp = part(1), MLP(D, HIDDEN, act="relu").double()
    m.parts[0].load_state_dict(mlp.state_dict())
    assert torch.equal(m(x), mlp(x))


def test_a_chunk_reads_itself_and_earlier_chunks_only():
    m = part(3, act="gelu")
    token = torch.randn(D, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(m, token)
    later = torch.ones(3, 3).triu(1).repeat_interleave(2, 0).repeat_interleave(2, 1).bool()
    assert not jacobian[later].any()
    assert jacobian[~later].all()


def test_parameters_are_the_dense_ones_divided_by_the_chunks():
    assert 4 * CascadedFFN(32, 64, 4, bias=False).cost().params == MLP(32, 64, bias=False).cost().params


def test_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="chunks=4 must divide d_model=6"):
        part(4)
