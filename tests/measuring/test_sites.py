import json

import pytest
import torch
from torch import nn

from layersmith.anatomy.site import Anatomy, Site
from layersmith.measuring import sites as sites_module
from layersmith.measuring.latency import Timing
from layersmith.measuring.shape import Shape
from layersmith.measuring.sites import MODEL, site_costs, site_latency


@pytest.fixture
def anatomy() -> Anatomy:
    sites = []
    for i in range(2):
        block = f"model.layers.{i}"
        sites += [
            Site(f"layers.{i}", "block", (block,), i, "", 32, causal=True),
            Site(f"layers.{i}.attn", "mixer", (f"{block}.self_attn",), i, "", 32, causal=True, outputs=2),
            Site(f"layers.{i}.ffn", "ffn", (f"{block}.mlp",), i, "", 32),
        ]
    return Anatomy(tuple(sites), {"": ("model.layers.0", "model.layers.1")})


def test_rows_hold_what_the_sites_are_and_cost(tiny: nn.Module, anatomy: Anatomy) -> None:
    rows = {r["name"]: r for r in json.loads(json.dumps(site_costs(tiny, anatomy, Shape("prefill", 1, 16), rounds=2)))}
    ffn = rows["layers.1.ffn"]
    assert ffn["params"] == 3 * 32 * 48
    assert ffn["flops"] == 3 * 2 * 16 * 32 * 48
    assert ffn["shapes"]["gate_proj.weight"] == [48, 32]
    assert ffn["latency_ms"] > 0
    blocks = sum(rows[f"layers.{i}"]["flops_share"] for i in range(2))
    head = 2 * 16 * 32 * 64
    assert blocks == pytest.approx(1 - head / (head + 2 * rows["layers.0"]["flops"]))
    assert rows["layers.0"]["flops"] == rows["layers.0.attn"]["flops"] + rows["layers.0.ffn"]["flops"]


def test_sites_are_timed_in_decode_too(tiny: nn.Module, anatomy: Anatomy) -> None:
    found = site_latency(tiny, anatomy, Shape("decode", 1, 16), rounds=2)
    assert set(found) == {MODEL, *(site.name for site in anatomy.sites)}
    assert all(timing.n == 2 for timing in found.values())


def test_a_site_of_several_modules_is_their_sum_and_a_shared_one_counts_its_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.down = nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(self.act(self.up(x)))

    class Twice(nn.TransformerEncoder):
        """Runs one shared block two times, where an encoder would run its layers."""

        def __init__(self) -> None:
            super().__init__(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 1)
            self.shared = Block()

        def forward(self, src: torch.Tensor) -> torch.Tensor:
            return self.shared(self.shared(src))

    site = Site("layers.0.ffn", "ffn", ("shared.up", "shared.act", "shared.down"), 0, "", 32, calls=2)
    second = Timing(1.0, 1.0, 1.0, 2, (1.0, 1.0))  # of anything
    monkeypatch.setattr(sites_module, "latency", lambda steps, **_: dict.fromkeys(steps, second))
    rows = site_costs(Twice().eval(), Anatomy((site,), {"": ("shared",)}), Shape("prefill", 1, 8), rounds=2)
    assert rows[0]["flops"] == 2 * (2 * 2 * 8 * 32 * 48)
    assert rows[0]["flops_share"] == 1.0
    assert (rows[0]["latency_ms"], rows[0]["latency_share"]) == (2000.0, 2.0)
    assert rows[0]["shapes"]["up.weight"] == [48, 32]
    assert rows[0]["params"] == 2 * 32 * 48 + 32 + 48
