"""Grids: a short or padded sequence fills the first places, what does not fit is refused, and gradients stay inside."""

import pytest
import torch

from layersmith.mixer.dynamic_spectrum import DynamicSpectrum
from layersmith.mixer.factorized_attention import FactorizedAttention
from layersmith.mixer.mix_shift import MixShift
from layersmith.mixer.multi_axis_gmlp import MultiAxisGMLP
from layersmith.mixer.multigrid import Multigrid
from layersmith.mixer.raft_mlp import RaftMLP
from layersmith.mixer.shared.grid import pooled
from layersmith.mixer.sparse_mlp import SparseMLP
from layersmith.mixer.strip_mlp import StripMLP

MIXERS = {
    "dynamic_spectrum": lambda: DynamicSpectrum(4, [4, 6], d_hidden=5, bands=3),
    "factorized_attention": lambda: FactorizedAttention(4, 2, [4, 6]),
    "factorized_attention-parallel": lambda: FactorizedAttention(4, 2, [2, 3, 4], parallel=True),
    "mix_shift": lambda: MixShift(4, [4, 6], shifts=[-1, 0], kernels=[1, 3]),
    "multi_axis_gmlp": lambda: MultiAxisGMLP(4, [4, 6], block=2),
    "multigrid": lambda: Multigrid(4, [24]),
    "multigrid-plane": lambda: Multigrid(4, [4, 6], levels=2, smooth=2, periodic=True),
    "raft_mlp": lambda: RaftMLP(4, [4, 6]),
    "sparse_mlp": lambda: SparseMLP(4, token_hidden=5, length=24, n_experts=3),
    "strip_mlp": lambda: StripMLP(4, [4, 6], shared=2),
}


@pytest.fixture(params=MIXERS)
def mixer(request):
    torch.manual_seed(0)
    m = MIXERS[request.param]().double().eval()
    for parameter in m.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return m


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


@torch.no_grad()
def test_padding_anywhere_is_invisible(mixer):
    x = torch.randn(4, 30, 4, dtype=torch.float64)
    mask = torch.zeros(4, 30, dtype=torch.bool)
    mask[0, :24] = True
    mask[1, 6:] = True
    mask[2, [3, 4, 9, 20, 29]] = True  # the last row is padding throughout
    y, state = mixer(torch.where(mask[..., None], x, 1e3), mask=mask)
    assert state is None
    assert y.isfinite().all()
    for row in range(3):
        close(y[row, mask[row]], mixer(x[row : row + 1, mask[row]])[0][0])


@torch.no_grad()
def test_a_short_sequence_has_zeros_behind_it(mixer):
    x = torch.randn(2, 24, 4, dtype=torch.float64)
    mask = (torch.arange(24) < 10).expand(2, -1)
    close(mixer(x[:, :10])[0], mixer(x, mask=mask)[0][:, :10])


def test_what_does_not_fit_is_refused(mixer):
    with pytest.raises(ValueError, match=r"25 tokens do not fit into grid=\["):
        mixer(torch.zeros(1, 25, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="every token reads the whole sequence"):
        mixer(torch.zeros(1, 24, 4, dtype=torch.float64), {"z": torch.zeros(1)})


@pytest.mark.parametrize("grid", [[], [0, 4], [4, True], 8, [2.0], "44", [4], [2, 2, 2]])
def test_what_is_no_plane_is_refused(grid):
    with pytest.raises(ValueError, match="grid must"):
        RaftMLP(4, grid)


def test_pooling_counts_real_places_only():
    field = torch.arange(6.0).reshape(1, 2, 3, 1)
    real = torch.tensor([True, True, True, True, False, False]).reshape(1, 2, 3, 1)
    assert pooled(field, real, 0).flatten().tolist() == [1.0, 3.0]
    assert pooled(field, real, 1).flatten().tolist() == [1.5, 1.0, 2.0]
    assert pooled(field, None, 1).flatten().tolist() == [1.5, 2.5, 3.5]
