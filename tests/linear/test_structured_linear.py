"""The structured linear maps against their materialised matrices, and the projections onto each structure."""

import numpy as np
import pytest
import torch
from torch import Tensor

from layersmith.linear.block_dense import BlockDense
from layersmith.linear.block_shuffle import BlockShuffle
from layersmith.linear.dense import Dense
from layersmith.linear.low_rank import LowRank

SHAPES = [(12, 8), (8, 12), (12, 12)]
PARTS = {
    "low_rank": lambda i, o, **k: LowRank(i, o, rank=5, **k),
    "block_dense": lambda i, o, **k: BlockDense(i, o, rank=6, blocks=2, **k),
    "block_shuffle": lambda i, o, **k: BlockShuffle(i, o, blocks=4, **k),
    "linear": lambda i, o, **k: Dense(i, o, **k),
}


def matrix_by_loops(part: LowRank | BlockDense | BlockShuffle | Dense, d_in: int, d_out: int) -> np.ndarray:
    """The matrix of the map written from the definition of its structure, without its own methods."""
    w = np.zeros((d_out, d_in))
    if isinstance(part, Dense):
        return part.linear.weight.detach().numpy()
    if isinstance(part, LowRank):
        for o in range(d_out):
            for i in range(d_in):
                w[o, i] = sum(part.u.weight[o, r].item() * part.v.weight[r, i].item() for r in range(5))
    if isinstance(part, BlockDense):
        blocks, per, width = part.b.shape
        for o in range(d_out):
            for n in range(blocks):
                for i in range(width):
                    w[o, n * width + i] = sum(
                        part.u.weight[o, n * per + q].item() * part.b[n, q, i].item() for q in range(per)
                    )
    if isinstance(part, BlockShuffle):
        blocks, per, width = part.b.shape
        first, second = np.zeros((blocks * per, d_in)), np.zeros((d_out, blocks * per))
        for n in range(blocks):
            first[n * per : (n + 1) * per, n * width : (n + 1) * width] = part.b[n].detach().numpy()
        rows = d_out // blocks
        for n in range(blocks):
            second[n * rows : (n + 1) * rows, n * per : (n + 1) * per] = part.c[n].detach().numpy()

        def deal(size: int) -> np.ndarray:
            """The permutation matrix that deals `size` values out to the blocks one by one, like cards."""
            p, place = np.zeros((size, size)), 0
            for block in range(blocks):
                for value in range(block, size, blocks):
                    p[place, value] = 1
                    place += 1
            return p

        w = deal(d_out).T @ second @ deal(blocks * per) @ first
    return w


@pytest.mark.oracle("low_rank", "block_dense", "block_shuffle", "linear")
@pytest.mark.parametrize(("d_in", "d_out"), SHAPES)
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("bias", [False, True])
def test_equals_its_matrix(name, d_in, d_out, bias):
    torch.manual_seed(0)
    part = PARTS[name](d_in, d_out, bias=bias).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    matrix = matrix_by_loops(part, d_in, d_out)
    np.testing.assert_allclose(part.dense_weight().detach().numpy(), matrix, rtol=1e-9, atol=1e-12)
    x = torch.randn(2, 3, d_in, dtype=torch.double)
    offset = part(torch.zeros(1, d_in, dtype=torch.double)).detach().numpy()[0]
    assert offset.any() == bias
    np.testing.assert_allclose(part(x).detach().numpy(), x.numpy() @ matrix.T + offset, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["low_rank", "block_dense", "block_shuffle"])
def test_start_has_the_variance_of_a_dense_linear_map(name):
    torch.manual_seed(0)
    part = {
        "low_rank": LowRank(256, 512, rank=64),
        "block_dense": BlockDense(256, 512, rank=64, blocks=4),
        "block_shuffle": BlockShuffle(256, 512, blocks=4),
    }[name]
    assert part.dense_weight().var().item() == pytest.approx(1 / (3 * 256), rel=0.05)


@pytest.mark.parametrize(("d_in", "d_out"), SHAPES)
@pytest.mark.parametrize("name", ["low_rank", "block_dense", "block_shuffle"])
def test_projection_recovers_a_matrix_of_its_own_structure(name, d_in, d_out):
    torch.manual_seed(0)
    matrix = PARTS[name](d_in, d_out).double().dense_weight().detach()
    torch.testing.assert_close(_project(name, matrix).dense_weight(), matrix)


def _project(name: str, matrix: Tensor, bias: Tensor | None = None) -> LowRank | BlockDense | BlockShuffle | Dense:
    return {
        "low_rank": lambda: LowRank.from_weight(matrix, 5, bias),
        "block_dense": lambda: BlockDense.from_weight(matrix, 6, 2, bias),
        "block_shuffle": lambda: BlockShuffle.from_weight(matrix, 4, bias),
        "linear": lambda: Dense.from_weight(matrix, bias),
    }[name]()


@pytest.mark.parametrize("name", ["low_rank", "block_dense", "block_shuffle"])
def test_projection_is_a_local_optimum(name):
    """At the nearest matrix of a structure, the squared distance has no slope in any parameter."""
    torch.manual_seed(0)
    matrix = torch.randn(8, 12, dtype=torch.double)
    part = _project(name, matrix)
    distance = (part.dense_weight() - matrix).square().sum()
    distance.backward()
    assert 0 < distance < 0.9 * matrix.square().sum()
    assert max(p.grad.abs().max().item() for p in part.parameters()) < 1e-9


@pytest.mark.parametrize("name", PARTS)
def test_projection_keeps_the_bias_and_the_dtype(name):
    bias = torch.randn(8)
    part = _project(name, torch.randn(8, 12), bias)
    torch.testing.assert_close(part(torch.zeros(12)), bias)
    assert _project(name, torch.randn(8, 12, dtype=torch.double))(torch.zeros(12).double()).dtype == torch.double


@pytest.mark.oracle("low_rank", "block_dense", "block_shuffle")
def test_full_rank_is_the_dense_map():
    matrix = torch.randn(8, 12, dtype=torch.double)
    torch.testing.assert_close(LowRank.from_weight(matrix, 8).dense_weight(), matrix)
    torch.testing.assert_close(BlockDense.from_weight(matrix, 16, 2).dense_weight(), matrix)
    torch.testing.assert_close(BlockShuffle.from_weight(matrix, 1).dense_weight(), matrix)


def test_projection_of_a_slice_narrower_than_its_share_of_the_rank():
    matrix = torch.randn(8, 6, dtype=torch.double)
    torch.testing.assert_close(BlockDense.from_weight(matrix, 12, 2).dense_weight(), matrix)


@pytest.mark.parametrize(("blocks", "mixes"), [(2, True), (4, True), (8, False)])
def test_block_shuffle_connects_everything_when_the_blocks_are_few(blocks, mixes):
    part = BlockShuffle(16, 16, blocks=blocks)
    assert bool((part.dense_weight() != 0).all()) == mixes  # 8^2 > 16: a block holds fewer values than there are blocks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRank(8, 4, rank=5), "rank 5 exceeds min"),
        (lambda: LowRank(8, 4, rank=0), "rank must be a positive integer"),
        (lambda: BlockDense(9, 4, rank=4, blocks=2), "blocks=2 must divide both d_in=9"),
        (lambda: BlockDense(8, 4, rank=3, blocks=2), "rank=3"),
        (lambda: BlockShuffle(8, 6, blocks=4), "blocks=4 must divide both"),
        (lambda: Dense(8, -1), "d_out must be a positive integer"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
