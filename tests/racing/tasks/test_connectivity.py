"""Graph connectivity: the same question to a union-find, and the hops to a breadth-first search."""

from __future__ import annotations

import pytest

from layersmith.racing.tasks.connectivity import Connectivity, within

from .small import draw


def test_reachable_is_what_union_find_joins() -> None:
    batch = draw(Connectivity(n_nodes=9, degree=1.6), 200)
    for rows, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        parent = list(range(9))

        def root(i: int, parent: list[int] = parent) -> int:
            return i if parent[i] == i else root(parent[i])

        for i in range(9):
            assert rows[i][i] == 1
            for j in range(9):
                assert rows[i][j] == rows[j][i]
                assert rows[i][j] in (0, 1)
                if rows[i][j]:
                    parent[root(i)] = root(j)
        assert targets == [int(root(i) == root(0)) for i in range(9)]


@pytest.mark.parametrize("hops", [0, 1, 2, 5])
def test_within_hops(hops: int) -> None:
    batch = draw(Connectivity(n_nodes=12, degree=1.5), 60)
    for rows, found in zip(batch.inputs.tolist(), within(batch.inputs, hops).tolist(), strict=True):
        near = {0}
        for _ in range(hops):
            near |= {j for i in near for j in range(12) if rows[i][j]}
        assert found == [i in near for i in range(12)]


def test_nodes_have_their_neighbours_and_one_hop_is_not_enough() -> None:
    task = Connectivity(n_nodes=20, degree=1.5)
    assert float(draw(task, 2000).inputs.sum(2).mean()) - 1 == pytest.approx(1.5, abs=0.05)
    found = task.yardsticks()
    assert found["constant"] < found["4 hops"] < 0.99
    assert found["2 hops"] < found["4 hops"]
