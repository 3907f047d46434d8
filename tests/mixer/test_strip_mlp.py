"""Strip MLP against loops over strips, and with strips that see themselves only."""

import pytest
import torch
import torch.nn.functional as F

from layersmith.mixer.strip_mlp import StripMLP


def along_rows(conv, field, strips, groups):
    """rows(x) by loops: field (H, W, D), one matrix over columns for each of `groups` channels and distance of rows."""
    height, width, d = field.shape
    out = torch.zeros_like(field)
    for c in range(d):
        g = c % groups
        for i in range(height):
            for j in range(width):
                total = conv.bias[g * width + j]
                for r in range(strips):
                    row = i + r - strips // 2
                    if 0 <= row < height:
                        total = total + sum(conv.weight[g * width + j, s, r] * field[row, s, c] for s in range(width))
                out[i, j, c] = total
    return out


@pytest.mark.oracle("strip_mlp")
@torch.no_grad()
@pytest.mark.parametrize(("strips", "shared"), [(3, 2), (1, 1), (3, 4)])
def test_by_loops(strips, shared):
    torch.manual_seed(0)
    m, groups = StripMLP(4, [3, 5], strips=strips, shared=shared).double(), 4 // shared
    x = torch.randn(1, 15, 4, dtype=torch.float64)
    field = x[0].reshape(3, 5, 4)
    rows = along_rows(m.rows, field, strips, groups)
    h = F.gelu(m.norm(m.fuse_rows(torch.cat((rows, field), -1))))
    columns = along_rows(m.columns, h.transpose(0, 1), strips, groups).transpose(0, 1)
    want = m.fuse_columns(torch.cat((field, columns), -1))
    torch.testing.assert_close(m(x)[0][0], want.reshape(15, 4), atol=1e-12, rtol=0)


@pytest.mark.oracle("strip_mlp")
@torch.no_grad()
@pytest.mark.parametrize(("strips", "seen"), [(1, {2}), (3, {1, 2, 3})])
def test_neighbouring_rows_are_read_where_strips_are_wide(strips, seen):
    m, field = StripMLP(2, [5, 4], strips=strips).double(), torch.zeros(1, 5, 4, 2, dtype=torch.float64)
    moved = field.clone()
    moved[0, 2, 1] = 1.0
    changed = (m._along(m.rows, moved) - m._along(m.rows, field)).abs().amax((0, 2, 3)) > 1e-12
    assert set(changed.nonzero().flatten().tolist()) == seen


@pytest.mark.parametrize("wrong", [{"strips": 2}, {"shared": 3}])
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StripMLP(4, [3, 5], **wrong)
