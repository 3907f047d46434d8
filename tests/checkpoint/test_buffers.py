"""What a stock model computes when it is made, and saves nowhere, comes back in a layersmith checkpoint."""

import copy

import torch

from layersmith import checkpoint
from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import apply
from layersmith.anatomy.swap import replacement_for
from layersmith.ffn.glu import GLU
from tests.architectures.every import SWEPT


def test_buffers_that_no_file_holds_come_back(tmp_path):
    model = SWEPT["falcon_h1"].model()
    edited = copy.deepcopy(model)
    site = find_sites(model)["layers.0.ffn"]
    replacement = replacement_for(model, site, GLU(32, 16))
    apply(edited, replacement)
    checkpoint.save(edited, [edit for edit, _ in replacement], tmp_path / "m")
    used = [torch.full((1, 1, 100), 7.0) for _ in range(500)]  # so that undefined memory is not zero by chance
    del used
    again, _ = checkpoint.load(tmp_path / "m")
    buffers = dict(edited.named_buffers())
    assert any("mup_vector" in name for name in buffers)
    for name, buffer in again.named_buffers():
        assert torch.equal(buffer, buffers[name.removeprefix("base.")]), name
