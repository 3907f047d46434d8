"""Pooling against loops, and what it does to texts that are the same everywhere."""

import pytest
import torch

from layersmith.mixer.pool import Pool

X = torch.randn(2, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.oracle("pool")
@pytest.mark.parametrize(("size", "causal"), [(1, True), (3, True), (4, True), (3, False), (5, False), (11, True)])
def test_means_of_neighbours_by_loops(size, causal):
    found = Pool(4, size, causal)(X)[0]
    for t in range(9):
        first, end = (t - size + 1, t + 1) if causal else (t - size // 2, t + size // 2 + 1)
        seen = [X[:, s] for s in range(max(first, 0), min(end, 9))]
        torch.testing.assert_close(found[:, t], sum(seen) / len(seen) - X[:, t])


@pytest.mark.oracle("pool")
@pytest.mark.parametrize("causal", [True, False])
def test_nothing_moves_where_all_tokens_are_the_same(causal):
    same = X[:, :1].expand(2, 9, 4)
    torch.testing.assert_close(Pool(4, 3, causal)(same)[0], torch.zeros_like(same))
    torch.testing.assert_close(Pool(4, 1, causal)(X)[0], torch.zeros_like(X))


def test_a_window_around_a_token_counts_no_padding():
    part, mask = Pool(4, 3, causal=False), torch.ones(2, 9, dtype=torch.bool)
    mask[0, [0, 4, 8]] = False
    torch.testing.assert_close(part(X, None, mask)[0][:1, mask[0]], part(X[:1, mask[0]])[0])
    with pytest.raises(ValueError, match="size=4 must be odd"):
        Pool(4, 4, causal=False)
