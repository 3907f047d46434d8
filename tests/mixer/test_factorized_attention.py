"""Factorised attention: mode products against the Kronecker matrix they stand for, and what both arrangements share."""

import pytest
import torch
import torch.nn.functional as F

from layersmith.mixer.factorized_attention import FactorizedAttention


def build(**config):
    torch.manual_seed(0)
    return FactorizedAttention(**{"d_model": 4, "n_heads": 2, "grid": [3, 4], **config}).double()


def kernels(m, field):
    """A_1 and A_2 of every head, by loops over lines: field (H, W, D) -> two lists of matrices."""
    inside, found = m.into(field), []
    for axis in range(2):
        lines = inside.mean(1 - axis)
        features = m.pool[axis](lines)
        q, k = (w[axis](features).reshape(len(lines), m.n_heads, m.head_dim) for w in (m.q, m.k))
        heads = []
        for h in range(m.n_heads):
            heads.append(torch.zeros(len(lines), len(lines), dtype=torch.float64))
            for i in range(len(lines)):
                for j in range(len(lines)):  # two channels: rotated by one angle per place
                    turn = torch.tensor(float(i - j), dtype=torch.float64)
                    a, b = q[i, h], k[j, h]
                    rotated = (a[0] * b[0] + a[1] * b[1]) * turn.cos() + (a[0] * b[1] - a[1] * b[0]) * turn.sin()
                    heads[h][i, j] = rotated
        found.append(heads)
    return found


def finish(m, parts):
    normed = [F.layer_norm(part, (m.head_dim,)).flatten(-2) for part in parts]
    return m.down(F.gelu(m.up(torch.cat(normed, -1))))


@pytest.mark.oracle("factorized_attention")
@torch.no_grad()
@pytest.mark.parametrize("parallel", [False, True])
def test_equals_the_dense_kronecker_matrix(parallel):
    m, x = build(parallel=parallel), torch.randn(1, 12, 4, dtype=torch.float64)
    field = x[0].reshape(3, 4, 4)
    rows, columns = kernels(m, field)
    v = m.v(x[0]).reshape(12, 2, 2)
    eye = [torch.eye(n).double() for n in (3, 4)]
    if parallel:
        dense = [[torch.kron(rows[h], eye[1]) for h in range(2)], [torch.kron(eye[0], columns[h]) for h in range(2)]]
    else:
        dense = [[torch.kron(rows[h], columns[h]) for h in range(2)]]
    parts = [torch.stack([matrices[h] @ v[:, h] for h in range(2)], 1) for matrices in dense]
    torch.testing.assert_close(m(x)[0][0], finish(m, parts), atol=1e-9, rtol=0)


@pytest.mark.oracle("factorized_attention")
@torch.no_grad()
def test_on_a_line_both_arrangements_are_one():
    chain, parallel = build(grid=[12]), build(grid=[12], parallel=True)
    parallel.load_state_dict(chain.state_dict())
    x = torch.randn(2, 12, 4, dtype=torch.float64)
    torch.testing.assert_close(parallel(x)[0], chain(x)[0], atol=1e-12, rtol=0)


@torch.no_grad()
def test_three_axes():
    m, x = build(grid=[2, 3, 2], rope_theta=None), torch.randn(1, 12, 4, dtype=torch.float64)
    field = x.reshape(1, 2, 3, 2, 4)
    a = [m.kernel(m.into(field).mean([d for d in (1, 2, 3) if d != axis + 1]), axis) for axis in range(3)]
    v = m.v(field).unflatten(-1, (2, 2))
    mixed = torch.einsum("bhil,bhjm,bhkn,blmnhd->bijkhd", *a, v)
    torch.testing.assert_close(m(x)[0], finish(m, [mixed]).flatten(1, 3), atol=1e-12, rtol=0)
