"""AF-KAN: by loops, and each token by itself. Features and the constant of ReLU-KAN: test_kan_basis."""

import math

import pytest
import torch

from layersmith.ffn.af_kan import AFKAN, AFLayer
from layersmith.ffn.mlp import MLP


def silu(v: float) -> float:
    return v / (1 + math.exp(-v))


def part(**config) -> AFKAN:
    torch.manual_seed(0)
    made = AFKAN(**{"d_model": 4, "d_hidden": 5, "size": 6, **config}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 6, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def by_loops(x: list[float], layer: AFLayer, reduce: str) -> list[float]:
    a, b, v = layer.basis.start.tolist(), layer.basis.end.tolist(), layer.mix.tolist()
    f = [[(silu(value - low) * silu(high - value)) ** 2 for low, high in zip(a, b, strict=True)] for value in x]
    least, most = min(map(min, f)), max(map(max, f))
    f = [[(value - least) / (most - least) for value in row] for row in f]
    r = [sum(w * value for w, value in zip(v, row, strict=True)) for row in f]
    if reduce == "attention":
        weight = [math.exp(score / max(layer.temperature.item(), 1.0)) for score in r]
        r = [w / sum(weight) * sum(row) for w, row in zip(weight, f, strict=True)]
    mean = sum(r) / len(r)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in r) / len(r) + 1e-5)
    scale, shift = layer.norm.weight.tolist(), layer.norm.bias.tolist()
    h = [silu((value - mean) / deviation * s + t) for value, s, t in zip(r, scale, shift, strict=True)]
    return [sum(w * value for w, value in zip(row, h, strict=True)) for row in layer.linear.weight.tolist()]


@pytest.mark.oracle("af_kan")
@pytest.mark.parametrize("reduce", ["attention", "linear"])
def test_by_loops(x, reduce):
    made = part(reduce=reduce)
    for token, y in zip(x.reshape(-1, 4).tolist(), made(x).reshape(-1, 4).tolist(), strict=True):
        assert y == pytest.approx(by_loops(by_loops(token, made.up, reduce), made.down, reduce), rel=1e-9)


@pytest.mark.oracle("af_kan")
def test_a_huge_token_changes_no_other(x):
    """With a minimum and maximum over the batch, one outlier would flatten the features of all tokens."""
    made = part()
    louder = x.clone()
    louder[0, 0] *= 100
    before, after = made(x), made(louder)
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=0)
    torch.testing.assert_close(after[0, 1:], before[0, 1:], rtol=0, atol=0)
    assert (after[0, 0] - before[0, 0]).abs().max() > 1e-3


def test_equal_features_give_no_nan():
    made = AFKAN(8, 8, act="relu", low=0.0, high=1.0)
    far = torch.full((3, 8), 50.0)  # outside every interval: all features 0
    y = made(far.requires_grad_())
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters())


@pytest.mark.oracle("af_kan")
@pytest.mark.parametrize(("d_model", "d_hidden"), [(192, 512), (576, 1536)])
def test_as_many_parameters_as_an_mlp(d_model, d_hidden):
    ours, mlp = AFKAN(d_model, d_hidden).cost(), MLP(d_model, d_hidden).cost()
    assert 1 < ours.params / mlp.params < 1.05
    assert ours.flops == mlp.flops


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"combine": "quad"}, "combine must be one of quad1"),
        ({"reduce": "mean"}, "reduce must be one of attention, linear, not 'mean'"),
        ({"act": "swish"}, "act='swish' is no activation"),
        ({"order": 6}, "size must be an integer of at least 7"),
        ({"order": -1}, "order must be an integer of at least 0"),
        ({"high": 0.0}, "low=0.0 must be a number below high=0.0"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        part(**config)
