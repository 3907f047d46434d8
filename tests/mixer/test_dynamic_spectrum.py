"""The spectrum mixer: there and back without a change, and bands as scipy's transform shows them."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from layersmith.mixer.dynamic_spectrum import DynamicSpectrum
from layersmith.mixer.shared.spectral import cosine_transform


def mixer(**config) -> DynamicSpectrum:
    torch.manual_seed(0)
    return DynamicSpectrum(**{"d_model": 3, "grid": [4, 6], "d_hidden": 5, "bands": 3, **config}).double()


@pytest.mark.oracle("dynamic_spectrum")
@torch.no_grad()
def test_weights_of_one_change_nothing():
    m, x = mixer(), torch.randn(2, 24, 3, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], x, atol=1e-12, rtol=0)


@pytest.mark.oracle("dynamic_spectrum")
@torch.no_grad()
@pytest.mark.parametrize("random", [False, True])
def test_bands_against_scipy(random):
    """Either the upper bands are silenced, an ideal low-pass, or every band has the weight that the network gives."""
    m, x = mixer(), torch.randn(1, 24, 3, dtype=torch.float64)
    if random:
        for parameter in m.down.parameters():
            torch.nn.init.normal_(parameter)
    else:
        m.down.bias.copy_(torch.tensor([0.0, -1.0, -1.0]).repeat_interleave(3))
    weights = 1 + m.down(torch.nn.functional.gelu(m.up(x[0].mean(0)))).reshape(3, 3).numpy()
    want = np.zeros((4, 6, 3))
    for c in range(3):
        spectrum = dctn(x[0, :, c].reshape(4, 6).numpy(), norm="ortho")
        for i in range(4):
            for j in range(6):
                spectrum[i, j] *= weights[int(3 * max(i / 4, j / 6)), c]
        want[..., c] = idctn(spectrum, norm="ortho")
    np.testing.assert_allclose(m(x)[0][0].reshape(4, 6, 3).numpy(), want, atol=1e-12)


@pytest.mark.parametrize("n", [1, 5, 8])
def test_the_transform_is_orthonormal_on_its_places(n):
    transform = cosine_transform(torch.tensor([n]), 8, torch.float64)[0]
    assert not transform[n:].any()
    assert not transform[:, n:].any()
    torch.testing.assert_close(transform[:n, :n] @ transform[:n, :n].T, torch.eye(n).double())
