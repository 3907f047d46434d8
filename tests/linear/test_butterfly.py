"""The butterfly map: factor by factor in loops, as the FFT and Hadamard transforms, and its projection of a matrix."""

import math

import numpy as np
import pytest
import torch

from layersmith.linear.block_shuffle import BlockShuffle
from layersmith.linear.butterfly import Butterfly, bit_reversal

SHAPES = [(8, 8), (6, 20), (20, 6), (70, 9)]


def by_loops(part: Butterfly, token: list[float]) -> list[float]:
    """One token through the factors, each pair of values by itself. No permutation or bit reversal."""
    stacks, depth, levels = part.twiddle.shape[:3]
    size, y = 2**levels, []
    for stack in range(stacks):
        v = token + [0.0] * (size - len(token))
        for block in range(depth):
            if part.permutation == "bit_reversal":
                v = [v[int(format(i, f"0{levels}b")[::-1], 2)] for i in range(size)]
            falling = part.permutation == "none" and block % 2 == 1
            for step in range(levels):
                stride = 2 ** (levels - 1 - step if falling else step)
                lower = [i for i in range(size) if not i & stride]
                new = list(v)
                for number, i in enumerate(lower):
                    (a, b), (c, d) = part.twiddle[stack, block, step, number].tolist()
                    new[i], new[i + stride] = a * v[i] + b * v[i + stride], c * v[i] + d * v[i + stride]
                v = new
        y += v
    return y[: part.d_out]


@pytest.mark.oracle("butterfly")
@pytest.mark.parametrize(("d_in", "d_out"), SHAPES)
@pytest.mark.parametrize("config", [{}, {"depth": 2}, {"depth": 2, "permutation": "bit_reversal"}, {"bias": True}])
def test_by_loops(d_in, d_out, config):
    torch.manual_seed(0)
    part = Butterfly(d_in, d_out, **config).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, d_in, dtype=torch.double)
    bias = part.bias.tolist() if part.bias is not None else [0.0] * d_out
    for token, y in zip(x.reshape(-1, d_in).tolist(), part(x).reshape(-1, d_out).tolist(), strict=True):
        assert y == pytest.approx([a + b for a, b in zip(by_loops(part, token), bias, strict=True)], rel=1e-9, abs=1e-9)
    torch.testing.assert_close(x @ part.dense_weight().T + torch.tensor(bias), part(x))


@pytest.mark.oracle("butterfly")
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_with_the_twiddles_of_the_fft_it_is_the_fft():
    """The divide-and-conquer recursion: even and odd halves transformed, then E_k +- exp(-2 pi i k / n) O_k."""
    n = 1024
    part = Butterfly(n, n, permutation="bit_reversal").to(torch.complex128)
    with torch.no_grad():
        for level in range(10):
            stride = 2**level
            for number in range(n // 2):
                turn = np.exp(-2j * math.pi * (number % stride) / (2 * stride))
                part.twiddle[0, 0, level, number] = torch.tensor([[1, turn], [1, -turn]])
    x = torch.randn(3, n, dtype=torch.complex128)
    np.testing.assert_allclose(part(x).detach().numpy(), np.fft.fft(x.numpy()), rtol=0, atol=1e-10)


@pytest.mark.oracle("butterfly")
def test_sums_and_differences_are_the_hadamard_transform():
    part = Butterfly(16, 16).double()
    with torch.no_grad():
        part.twiddle.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    hadamard = np.array([[(-1.0) ** bin(i & j).count("1") for j in range(16)] for i in range(16)])
    np.testing.assert_allclose(part.dense_weight().detach().numpy(), hadamard)


def soft_permutation(x: list[float], p: list[list[float]]) -> list[float]:
    """The relaxation by its recursion: mix in the even-odd split, mix in each half's reversal, go on in the halves."""
    if not p:
        return x
    n, (split, first, second) = len(x), p[0]
    mixed = [(1 - split) * a + split * b for a, b in zip(x, x[::2] + x[1::2], strict=True)]
    halves = []
    for half, share in ((mixed[: n // 2], first), (mixed[n // 2 :], second)):
        halves += soft_permutation([(1 - share) * a + share * b for a, b in zip(half, half[::-1], strict=True)], p[1:])
    return halves


@pytest.mark.oracle("butterfly")
def test_learned_permutation_by_recursion():
    torch.manual_seed(0)
    part = Butterfly(16, 16, depth=2, permutation="learned").double()
    torch.nn.init.normal_(part.logits)
    x = torch.randn(16, dtype=torch.double)
    for block in range(2):
        expected = soft_permutation(x.tolist(), part.logits[block].sigmoid().tolist())
        assert part._permute(x, block).tolist() == pytest.approx(expected)


@pytest.mark.oracle("butterfly")
def test_learned_permutation_holds_the_bit_reversal():
    learned, fixed = Butterfly(32, 32, permutation="learned"), Butterfly(32, 32, permutation="bit_reversal")
    with torch.no_grad():
        learned.logits.copy_(torch.tensor([100.0, -100.0, -100.0]).expand_as(learned.logits))  # always split, no turn
        learned.twiddle.copy_(fixed.twiddle)
    x = torch.randn(4, 32)
    torch.testing.assert_close(learned(x), fixed(x))
    assert fixed.reversal.tolist() == [int(format(i, "05b")[::-1], 2) for i in range(32)]
    assert bit_reversal(3).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize(("d_in", "d_out"), [*SHAPES, (1, 3), (2, 2)])
@pytest.mark.parametrize("permutation", ["none", "bit_reversal"])
def test_projection_recovers_a_butterfly(d_in, d_out, permutation):
    torch.manual_seed(0)
    matrix = Butterfly(d_in, d_out, permutation=permutation).double().dense_weight().detach()
    bias = torch.randn(d_out, dtype=torch.double)
    part = Butterfly.from_weight(matrix, bias, permutation)
    torch.testing.assert_close(part.dense_weight(), matrix)
    torch.testing.assert_close(part(torch.zeros(d_in, dtype=torch.double)), bias)


def test_projection_beats_a_random_start_and_keeps_every_output_close_to_a_noisy_butterfly():
    torch.manual_seed(0)
    clean = Butterfly(32, 32).double().dense_weight().detach()
    noise = 0.01 * clean.std() * torch.randn_like(clean)
    found = Butterfly.from_weight(clean + noise).dense_weight()
    assert (found - clean).norm() < 3 * noise.norm()
    matrix = torch.randn(32, 32, dtype=torch.double)
    assert (Butterfly.from_weight(matrix).dense_weight() - matrix).norm() < 0.9 * matrix.norm()


@pytest.mark.oracle("butterfly")
def test_a_butterfly_is_a_monarch_matrix():
    """Half of the factors mix within 4 blocks of 4, the other half across them: two factors of a block shuffle."""
    torch.manual_seed(0)
    matrix = Butterfly(16, 16).double().dense_weight().detach()
    torch.testing.assert_close(BlockShuffle.from_weight(matrix, blocks=4).dense_weight(), matrix)


@pytest.mark.parametrize("config", [{}, {"depth": 3}, {"permutation": "learned"}])
def test_start_turns_unit_variance_into_a_third(config):
    torch.manual_seed(0)
    part = Butterfly(192, 512, **config)
    assert part(torch.randn(256, 192)).square().mean().item() == pytest.approx(1 / 3, rel=0.3)


def test_parameters_are_2_n_log_n_for_each_stack():
    assert Butterfly(1024, 1024).cost().params == 2 * 1024 * 10
    assert Butterfly(192, 512).cost().params == 2 * 2 * 256 * 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Butterfly(8, 8, depth=0), "depth must be a positive integer"),
        (lambda: Butterfly(8, 8, permutation="random"), "permutation must be one of none, bit_reversal, learned"),
        (lambda: Butterfly(2, 8, permutation="learned"), "d_in=2 leaves no order"),
        (lambda: Butterfly.from_weight(torch.eye(4), permutation="learned"), "needs a fixed permutation"),
    ],
)
def test_bad_configuration_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
