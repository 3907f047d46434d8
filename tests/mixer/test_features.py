"""Feature maps: random ones against the kernels they approach, learned ones against their formulas, gradients."""

import math

import pytest
import torch

from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.shared.features import (
    RANDOM,
    Elu1,
    UnitSilu,
    hadamard,
    orthogonal,
    random_features,
)
from layersmith.mixer.softmax import SoftmaxAttention


def products(name, features, x, y):
    """phi(x) . phi(y) of the rows, with a map drawn from seed 0."""
    torch.manual_seed(0)
    m = random_features(name, 1, x.shape[-1], features).double()
    phi_x, phi_y = (m(part[None, None, None])[0, 0, 0] for part in (x, y))
    return phi_x @ phi_y.mT


@pytest.mark.oracle("linear_attention")
@torch.no_grad()
# The network of the generative features moves the frequencies from the start.
@pytest.mark.parametrize("name", [name for name in sorted(RANDOM) if not name.startswith("generative")])
def test_untrained_random_features_approach_their_kernel(name):
    """exp(q . k / sqrt(d)), or exp(-|q - k|^2 / (2 sqrt(d))): 64 times as many features, an eighth of the error."""
    torch.manual_seed(1)
    x, y = 0.5 * torch.randn(2, 6, 8, dtype=torch.float64)  # the variance grows exponentially with lengths
    if name == "favor":
        want = (x @ y.mT / math.sqrt(8)).exp()
    else:
        want = (-torch.cdist(x, y).square() / (2 * math.sqrt(8))).exp()
    few, many = (((products(name, n, x, y) - want).norm() / want.norm()).item() for n in (64, 4096))
    assert many < 0.5 * few
    assert many < 0.1


def test_a_generator_that_adds_nothing_leaves_gaussian_frequencies():
    torch.manual_seed(0)
    source = random_features("generative_positive", 2, 8, 16).source
    with torch.no_grad():
        source.out.weight.zero_()
        source.out.bias.zero_()
    torch.testing.assert_close(source(), source.noise, atol=0, rtol=0)


def test_a_mixture_shifts_and_scales_its_noise_by_component():
    torch.manual_seed(0)
    source = random_features("gmm_cosine", 2, 3, 5).source
    with torch.no_grad():
        source.mean.normal_()
        source.scale.normal_()
    for r in range(5):
        want = source.mean[:, :, r % 2] + source.scale[:, :, r % 2] * source.noise[:, :, r]
        torch.testing.assert_close(source()[:, :, r], want, atol=0, rtol=0)


@torch.no_grad()
def test_fastfood_is_the_product_of_its_matrices():
    torch.manual_seed(0)
    source = random_features("fastfood_cosine", 2, 3, 6).source.double()
    h = hadamard(4).double()
    for head in range(2):
        rows = []
        for block in range(2):
            order = torch.eye(4, dtype=torch.float64)[source.order[2 * head + block]]
            s, g, b = (torch.diag(part[head, block]) for part in (source.s, source.g, source.b))
            rows.append(s @ h @ g @ order @ h @ b / 4)
        want = torch.cat(rows)[:6, :3].T
        torch.testing.assert_close(source()[head], want, atol=1e-12, rtol=0)


def test_directions_are_as_likely_as_their_opposites():
    """A factorisation that chooses signs, taken as it is, would make all first entries negative."""
    torch.manual_seed(0)
    first = orthogonal(400, 4, 4)[:, 0]
    assert 0.45 < (first > 0).float().mean() < 0.55
    torch.testing.assert_close(orthogonal(2000, 4, 4).square().mean(), torch.tensor(1.0), atol=0.05, rtol=0)


def test_hadamard_and_orthogonal_rows():
    h = hadamard(8)
    assert torch.equal(h @ h.T, 8 * torch.eye(8))
    torch.manual_seed(0)
    w = orthogonal(2, 4, 4)
    gram = w.mT @ w
    torch.testing.assert_close(gram, torch.diag_embed(gram.diagonal(dim1=1, dim2=2)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_favor_attention_approaches_softmax_attention():
    torch.manual_seed(0)
    softmax = SoftmaxAttention(16, 4, n_kv_heads=2)
    x, errors = torch.randn(2, 12, 16), []
    for features in (16, 2048):
        m = LinearAttention(16, 4, n_kv_heads=2, feature_map="favor", features=features)
        m.load_state_dict(softmax.state_dict(), strict=False)
        errors.append((m(x)[0] - softmax(x)[0]).norm() / softmax(x)[0].norm())
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.03


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_learned_frequencies_are_trained_and_outputs_stay_finite(name):
    torch.manual_seed(0)
    m = LinearAttention(16, 4, feature_map=name, features=6)
    y, _ = m(20 * torch.randn(2, 70, 16))
    assert y.isfinite().all()  # also where a normaliser of cosines comes close to 0
    y, _ = m(torch.randn(2, 70, 16))
    y.square().sum().backward()
    for path, parameter in m.named_parameters():
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().max() > 0, path


def test_a_vanishing_normaliser_of_cosines_is_held_at_eps():
    m = LinearAttention(16, 4, feature_map="gmm_cosine", eps=0.5)
    z = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0])
    assert m._away_from_zero(z).tolist() == [-2.0, -0.5, 0.5, 0.5, 2.0]


def test_elu1_and_silu_by_hand():
    assert Elu1()(torch.tensor([-200.0, -1.0, 0.0, 2.0])).tolist() == pytest.approx([0.0, math.exp(-1), 1.0, 3.0])
    x = torch.tensor([0.0, 0.0, 0.0, 0.0])
    assert UnitSilu()(x).tolist() == pytest.approx([0.5] * 4)
    assert UnitSilu()(torch.linspace(-30, 30, 1000)).min() > 0


@torch.no_grad()
def test_out_norm_is_an_rms_norm_of_all_heads_together():
    torch.manual_seed(0)
    m = LinearAttention(12, 3, normalize=False, out_norm=True, eps=1e-3).double()
    plain = LinearAttention(12, 3, normalize=False).double()
    plain.load_state_dict(m.state_dict())
    plain.o = torch.nn.Identity()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    heads = plain(x)[0]
    want = m.o(heads / (heads.square().mean(-1, keepdim=True) + 1e-3).sqrt())
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


def test_out_norm_bounds_the_gradient_where_the_normaliser_does_not():
    """Queries whose features nearly vanish: the quotient's gradient grows as they shrink, the normalised one's not."""

    def worst(size, **settings):
        torch.manual_seed(0)
        m = LinearAttention(8, 1, feature_map="relu", **settings).double()
        with torch.no_grad():
            m.q.weight.mul_(size)
        m(torch.randn(1, 20, 8, dtype=torch.float64))[0].sum().backward()
        return m.q.weight.grad.abs().max()

    assert worst(1e-9, eps=1e-20) > 900 * worst(1e-6, eps=1e-20)
    normed = {"eps": 1e-3, "normalize": False, "out_norm": True}
    assert worst(1e-9, **normed) < 1.01 * worst(1e-6, **normed)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="Give normalize=False with it"):
        LinearAttention(16, 4, out_norm=True)
    with pytest.raises(ValueError, match="draws no random features"):
        LinearAttention(16, 4, features=8)
    with pytest.raises(ValueError, match="features must be a positive integer"):
        LinearAttention(16, 4, feature_map="favor", features=0)
