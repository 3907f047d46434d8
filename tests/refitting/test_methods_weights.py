"""What is done to weight matrices: rounding, GPTQ, low rank, least squares, against independent oracles."""

from collections import namedtuple

import pytest
import torch

from layersmith.linear.quantized import nearest_codes, rtn_grid
from layersmith.refitting import methods
from layersmith.refitting.methods.fits.low_rank import decomposed, truncated
from layersmith.refitting.methods.least_squares import positive, reduced_rank, ridge
from layersmith.refitting.methods.quantize.gptq import gptq
from layersmith.refitting.methods.quantize.rtn import group_size

#: Parts that any method may put in place beside those it is about: nothing at all, and a dense map with folded weights.
HELPERS = ("zero", "identity", "linear")
Plain = namedtuple("Plain", "operator")
SITE_OF = {"ffn": "layers.1.ffn", "mixer": "layers.1.attn", "norm": "layers.1.ffn_norm", "block": "layers.1"}


def test_ridge_finds_an_affine_map():
    torch.manual_seed(0)
    x, w, b = torch.randn(400, 12), torch.randn(5, 12), torch.randn(5)
    weight, bias = ridge(x, x @ w.T + b, strength=1e-9)
    assert torch.allclose(weight, w, atol=1e-4)
    assert torch.allclose(bias, b, atol=1e-4)


def test_reduced_rank_is_exact_when_the_map_has_that_rank():
    torch.manual_seed(0)
    x, w = torch.randn(400, 12), torch.randn(9, 3) @ torch.randn(3, 12)
    up, down, bias = reduced_rank(x, x @ w.T + 1.0, rank=3, strength=1e-9)
    assert torch.allclose(up @ down, w, atol=1e-3)
    assert torch.allclose(bias, torch.ones(9), atol=1e-3)


def test_rounding_weights_that_are_on_the_grid_changes_nothing(view, llama):
    """Nothing but the 16 bits that a group's scale is stored in, and is found again with."""
    at = view("layers.1.ffn")
    rounded = at.local_error(methods.get("rtn").build(at, {"bits": 3}))
    saved = {path: module.weight.clone() for path, module in at.linears().items()}
    try:
        for path, module in at.linears().items():
            group = group_size(saved[path].shape[1])
            scale, zero = (t.float()[..., None] for t in rtn_grid(saved[path], 3, group))
            codes = nearest_codes(saved[path], *rtn_grid(saved[path], 3, group), 3).float().unflatten(1, (-1, group))
            module.weight.copy_(((codes - zero) * scale).flatten(1))
        at = view("layers.1.ffn")
        assert at.local_error(methods.get("rtn").build(at, {"bits": 3})) < 1e-4 * rounded
    finally:
        for path, weight in saved.items():
            llama.get_submodule(path).weight.copy_(weight)


def correlated_inputs(tokens=600, width=32):
    torch.manual_seed(0)
    return torch.randn(tokens, 6) @ torch.randn(6, width) + 0.1 * torch.randn(tokens, width)


def test_gptq_with_a_diagonal_gram_is_rounding_to_nearest():
    torch.manual_seed(1)
    weight = torch.randn(7, 32)
    codes, scale, zero = gptq(weight, torch.diag(torch.rand(32) + 0.5), bits=3, group=16)
    expected_scale, expected_zero = rtn_grid(weight, 3, 16)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(zero, expected_zero)
    assert torch.equal(codes, nearest_codes(weight, scale, zero, 3))


@pytest.mark.parametrize("bits", [4, 3])
def test_gptq_beats_rounding_on_correlated_inputs(bits):
    x = correlated_inputs()
    weight = torch.randn(24, 32)

    def error(codes, scale, zero):
        grid = (codes.float().unflatten(1, (-1, 16)) - zero.float()[..., None]) * scale.float()[..., None]
        return float(((grid.flatten(1) - weight) @ x.T).square().sum())

    scale, zero = rtn_grid(weight, bits, 16)
    assert error(*gptq(weight, x.T @ x, bits, 16)) < 0.7 * error(nearest_codes(weight, scale, zero, bits), scale, zero)


def test_gptq_survives_inputs_that_never_fire():
    gram = correlated_inputs().T @ correlated_inputs()
    gram[3], gram[:, 3] = 0.0, 0.0
    codes, scale, _ = gptq(torch.randn(5, 32), gram, bits=4, group=16)
    assert torch.isfinite(scale.float()).all()
    assert codes.max() <= 15


def test_gptq_does_not_depend_on_the_size_of_the_gram_where_some_inputs_never_fire():
    torch.manual_seed(0)
    gram, weight = correlated_inputs().T @ correlated_inputs(), torch.randn(5, 32)
    gram[::2], gram[:, ::2] = 0.0, 0.0
    found = [gptq(weight, gram * size, bits=3, group=16)[0] for size in (1.0, 1e-6, 1e6)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_low_rank_is_optimal_in_the_metric_of_the_inputs():
    x, weight = correlated_inputs(), torch.randn(20, 32)
    up, down = truncated(decomposed(weight, x.T @ x / len(x)), rank=4)
    ours = ((weight - up @ down) @ x.T).norm()
    left, scale, right = torch.linalg.svd(weight)
    plain = ((weight - (left[:, :4] * scale[:4]) @ right[:4]) @ x.T).norm()
    # Eckart-Young in that metric: the best possible error is the tail of the singular values of W X.
    best = torch.linalg.svdvals(weight @ x.T)[4:].norm()
    assert ours == pytest.approx(float(best), rel=1e-3)
    assert ours < 0.8 * plain


@pytest.mark.parametrize(("width", "expected"), [(576, 64), (192, 64), (100, 50), (7, 7)])
def test_group_size_divides(width, expected):
    assert group_size(width) == expected


def test_a_gram_of_few_inputs_along_one_huge_direction_has_factors():
    """As at the down projection of a trained model, on little text; 32 bits make such a gram slightly negative."""
    torch.manual_seed(0)
    x = torch.randn(40, 512) + 3e4 * torch.randn(40, 1) * torch.randn(512)
    gram, weight = x.T @ x / 40, torch.randn(24, 512)
    assert torch.linalg.eigvalsh(gram.double()).min() < -1e-6 * gram.diagonal().mean()
    torch.linalg.cholesky(positive(gram))
    left, scale, right = decomposed(weight, gram)
    torch.testing.assert_close((left * scale) @ right, weight.double(), rtol=1e-6, atol=1e-6)
