"""Sparse vector quantisation, against loops, and as the linear map it contains."""

import math

import pytest
import torch

from layersmith.contract import aux_losses
from layersmith.ffn.mlp import MLP
from layersmith.ffn.sparse_vq import SparseVQ


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(**config) -> SparseVQ:
    torch.manual_seed(1)
    made = SparseVQ(**{"d_model": 6, "codes": 5, "heads": 2, "keep": 0.5, **config}).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return made


def affine(layer, v):
    if isinstance(layer, torch.nn.Identity):
        return v
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(a * b for a, b in zip(row, v, strict=True)) + shift for row, shift in rows]


def by_loops(m: SparseVQ, token: list[float]) -> tuple[list[float], float]:
    """The output for one token, and its sum of (q - z)^2."""
    z = affine(m.project_in, token)
    out, wrong, width = [], 0.0, m.codebook.shape[2]
    for h, book in enumerate(m.codebook.tolist()):
        part = z[h * width : (h + 1) * width]
        q = min(book, key=lambda code: sum((a - b) ** 2 for a, b in zip(part, code, strict=True)))
        wrong += sum((a - b) ** 2 for a, b in zip(part, q, strict=True))
        for o in range(width):
            refined = sum(w * q[i] for w, i in zip(m.sparse[o].tolist(), m.places[o].tolist(), strict=True))
            out.append(part[o] + q[o] + refined + m.shift[o].item())
    return affine(m.project_out, out), wrong


@pytest.mark.oracle("sparse_vq")
@pytest.mark.parametrize("config", [{}, {"heads": 1}, {"heads": 3, "d_code": 2}, {"d_code": 4, "keep": 0.01}])
def test_by_loops(x, config):
    m = part(**config).eval()
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token)[0], rel=1e-9, abs=1e-12)


@pytest.mark.oracle("sparse_vq")
def test_with_codes_at_zero_it_is_a_linear_map(x):
    m = part()
    with torch.no_grad():
        m.codebook.zero_()
        m.shift.zero_()
    torch.testing.assert_close(m(x), m.project_out(m.project_in(x)), rtol=1e-12, atol=1e-12)
    identity = part(heads=3, d_code=2)
    with torch.no_grad():
        identity.codebook.zero_()
        identity.shift.zero_()
    torch.testing.assert_close(identity(x), x, rtol=0, atol=0)


@pytest.mark.oracle("sparse_vq")
def test_losses_by_formula(x):
    m = part(commitment=0.3, orthogonal=0.7).train()
    m(x)
    losses = aux_losses(m)
    wrong = sum(by_loops(m, token)[1] for token in x.reshape(-1, 6).tolist())
    assert losses["commitment"].item() == pytest.approx(0.3 * wrong / (14 * 2 * 6), rel=1e-9)
    total = 0.0
    for book in m.codebook.tolist():
        length = [math.sqrt(sum(v * v for v in code)) for code in book]
        for i, a in enumerate(book):
            for j, b in enumerate(book):
                total += (sum(p * q for p, q in zip(a, b, strict=True)) / length[i] / length[j]) ** 2
    assert losses["orthogonal"].item() == pytest.approx(0.7 * (total / (2 * 25) - 1 / 5), rel=1e-9)
    assert aux_losses(part().eval()) == {}


def test_the_sparse_map_has_the_share_of_entries_asked_for():
    m = part(d_model=40, heads=1, keep=0.1)
    assert ((m.sparse_map() != 0).sum(1) == 4).all()
    assert m.sparse.numel() == 160


def test_without_projections_it_is_smaller_than_a_feed_forward():
    small = SparseVQ(128, codes=256, heads=4, d_code=32)
    assert small.cost().params < 0.8 * MLP(128, 256).cost().params


@pytest.mark.parametrize(
    ("config", "message"),
    [({"keep": 0.0}, "keep must lie"), ({"commitment": -1.0}, "commitment=-1.0"), ({"codes": 0}, "codes must be")],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        part(**config)
