"""RoPE against complex multiplication in float64, its defining property, and positions under padding."""

import math

import pytest
import torch

from layersmith.mixer.shared.rope import rotary_size, rotary_table, rotate, token_positions, tokens_seen


def turned_by_complex_numbers(x, positions, size, theta, interleaved):
    """Every channel pair as one complex number times exp(i * angle)."""
    out = x.clone()
    for i in range(size // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + size // 2)
        for t, position in enumerate(positions):
            angle = position * theta ** (-2 * i / size)
            z = torch.complex(x[..., t, a], x[..., t, b]) * complex(math.cos(angle), math.sin(angle))
            out[..., t, a], out[..., t, b] = z.real, z.imag
    return out


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("size", [8, 4])
def test_equals_complex_multiplication(size, interleaved):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 30, 400]])
    got = rotate(x, rotary_table(positions, size, 100.0, x.dtype), interleaved)
    want = turned_by_complex_numbers(x, positions[0].tolist(), size, 100.0, interleaved)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    torch.testing.assert_close(got[..., size:], x[..., size:], atol=0, rtol=0)


def test_scores_depend_on_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)

    def score(at_q, at_k):
        tables = [rotary_table(torch.tensor([[p]]), 16, 10000.0, q.dtype) for p in (at_q, at_k)]
        return (rotate(q, tables[0]) * rotate(k, tables[1])).sum()

    torch.testing.assert_close(score(7, 3), score(1007, 1003), atol=1e-10, rtol=0)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_positions_count_real_tokens():
    x = torch.zeros(3, 4, 1)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 0]]).bool()
    seen = tokens_seen(x, mask, None)
    assert token_positions(x, None, None).tolist() == [[0, 1, 2, 3]]
    assert token_positions(x, mask, None).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1], [0, 1, 1, 2]]
    assert seen.tolist() == [4, 2, 2]
    assert token_positions(x, None, seen).tolist() == [[4, 5, 6, 7], [2, 3, 4, 5], [2, 3, 4, 5]]
    assert tokens_seen(x, None, seen).tolist() == [8, 6, 6]


@pytest.mark.parametrize(
    ("theta", "fraction", "interleaved"),
    [(None, 0.5, False), (None, 1.0, True), (-1.0, 1.0, False), (1e4, 0.0, False), (1e4, 0.4, False)],
)
def test_contradictory_settings_are_refused(theta, fraction, interleaved):
    with pytest.raises(ValueError, match="rope"):
        rotary_size(object, 8, theta, fraction, interleaved)
