"""Head memory: search and reading written out over all slots, and a fresh block that changes nothing."""

import pytest
import torch

from layersmith import catalogue
from layersmith.errors import UserError
from tests.block.small import NORM, SOFTMAX, D, block, tokens

CONFIG = {"mixer": SOFTMAX, "norm": NORM, "n_keys": 3, "heads": 2, "k": 4, "d_value": 5}


@pytest.mark.oracle("head_memory")
@torch.no_grad()
def test_reading_written_out():
    part, x = block("head_memory", **CONFIG), tokens()
    queries = part.query_norm(x + part.mixer(part.norm(x))[0])
    for b in range(2):
        for t in range(7):
            found = []
            for head in range(2):
                q = queries[b, t, head * 4 : head * 4 + 4]
                scores = {
                    a * 3 + c: (torch.cat([part.keys[head, 0, a], part.keys[head, 1, c]]) @ q).item()
                    for a in range(3)
                    for c in range(3)
                }
                best = sorted(scores, key=lambda slot: -scores[slot])[:4]
                weights = torch.softmax(torch.tensor([scores[s] for s in best], dtype=x.dtype), 0)
                found.append(sum(w * part.values[s] for w, s in zip(weights, best, strict=True)))
            want = x[b, t] + part.widen.weight @ torch.cat(found)
            torch.testing.assert_close(part(x)[0][b, t], want)


@pytest.mark.oracle("head_memory")
@torch.no_grad()
def test_a_fresh_block_changes_nothing():
    fresh = catalogue.build({"name": "head_memory", "d_model": D, **CONFIG}).double()
    assert torch.equal(fresh(tokens())[0], tokens())


def test_reading_all_slots_needs_no_search():
    part, x = block("head_memory", **{**CONFIG, "k": 9}), tokens()
    assert part.cost().active_params == part.cost().params
    assert block("head_memory", **{**CONFIG, "k": 1}).cost().active_params == part.cost().params - 7 * 5
    assert part(x)[0].isfinite().all()
    for change in ({"k": 10}, {"heads": 3}):
        with pytest.raises(UserError, match=next(iter(change))):
            block("head_memory", **{**CONFIG, **change})
