"""Maps over positions: streamed, padded and cut short they give what the whole sequence gives, and end in words."""

import pytest
import torch

from layersmith.mixer.gmlp import GMLP
from layersmith.mixer.mlp_mixer import MLPMixer
from layersmith.mixer.nin_gate import NiNGate
from layersmith.mixer.res_mlp import ResMLP
from layersmith.mixer.shared.positions import PositionMap

MIXERS = {
    "gmlp": lambda causal: GMLP(6, 8, length=12, causal=causal, n_experts=2),
    "gmlp-toeplitz": lambda causal: GMLP(6, 8, length=12, causal=causal, toeplitz=True),
    "mlp_mixer": lambda causal: MLPMixer(6, token_hidden=18, length=12, causal=causal),
    "mlp_mixer-few": lambda causal: MLPMixer(6, token_hidden=5, length=12, causal=causal),
    "nin_gate": lambda causal: NiNGate(6, 8, token_hidden=12, length=12, causal=causal),
    "res_mlp": lambda causal: ResMLP(6, length=12, causal=causal),
}


@pytest.fixture(params=MIXERS)
def build(request):
    def built(causal):
        torch.manual_seed(0)
        m = MIXERS[request.param](causal).double().eval()
        for parameter in m.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        return m

    return built


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def stream(m, x, sizes, mask):
    state, parts = None, []
    for part, real in zip(x.split(sizes, 1), mask.split(sizes, 1), strict=True):
        y, state = m(part, state, None if real.all() and state is None else real)
        parts.append(y)
    return torch.cat(parts, 1)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 1, 6], [12]])
def test_interior_padding_in_chunks_changes_no_real_token(build, sizes):
    m, x = build(True), torch.randn(3, 12, 6, dtype=torch.float64)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, [0, 4, 5, 11]] = False
    mask[2] = False
    held = torch.where(mask[..., None], x, 50.0)
    y = stream(m, held, sizes, mask)
    close(y[0], m(x[:1])[0][0])
    close(y[1][mask[1]], m(x[1:2, mask[1]])[0][0])
    assert y.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 7, 12])
def test_a_short_sequence_is_one_with_zeros_behind(build, tokens):
    m, x = build(False), torch.randn(2, 12, 6, dtype=torch.float64)
    mask = (torch.arange(12) < tokens).expand(2, -1)
    close(m(x, mask=mask)[0][:, :tokens], m(x[:, :tokens])[0])


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_more_tokens_than_positions_are_refused_and_padding_is_none(build, causal):
    m, x = build(causal), torch.randn(1, 16, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="length=12"):
        m(x[:, :13])
    mask = torch.arange(16)[None] >= 4
    close(m(x, mask=mask)[0][:, 4:], m(x[:, 4:])[0])
    with pytest.raises(ValueError, match="cannot take 13 tokens"):
        m(x, mask=torch.arange(16)[None] >= 3)


@torch.no_grad()
def test_a_stream_ends_in_words(build):
    m, x = build(True), torch.randn(1, 13, 6, dtype=torch.float64)
    state = None
    for token in x[:, :12].split(1, 1):
        _, state = m(token, state)
    with pytest.raises(ValueError, match="length=12"):
        m(x[:, 12:], state)


@pytest.mark.parametrize("causal", [True, False])
def test_a_toeplitz_matrix_knows_distances_only(causal):
    torch.manual_seed(0)
    m = PositionMap(5, causal, groups=2, toeplitz=True).double()
    w = m.matrix().tril() if causal else m.matrix()
    for g in range(2):
        for t in range(5):
            for s in range(t + 1 if causal else 5):
                assert w[g, t, s] == m.weight[g, t - s + (0 if causal else 4)]
