"""A fixed norm by loops, the norm that it is for tokens of one size, and its schedule."""

import math

import pytest
import torch

from layersmith.norm.fixed_norm import MOMENTUM, FixedNorm
from layersmith.norm.layer_norm import LayerNorm
from layersmith.norm.rms_norm import RMSNorm

D, EPS = 5, 0.1


@pytest.fixture
def x() -> torch.Tensor:
    drawn = 1 + 2 * torch.randn(2, 6, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    drawn[:, 0] *= 40
    return drawn


def made(**settings):
    torch.manual_seed(1)
    part = FixedNorm(D, eps=EPS, **settings).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    part.std.fill_(1.7)
    if part.sinks:
        part.sink_std.fill_(60.0)
        part.threshold.fill_(10.0)
    return part.eval()


def size_of(token, centre):
    mean = sum(token) / D if centre else 0.0
    return mean, math.sqrt(sum((v - mean) ** 2 for v in token) / D)


@pytest.mark.oracle("fixed_norm")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sinks", [True, False])
@pytest.mark.parametrize("centre", [True, False])
def test_by_loops(x, centre, sinks, bias):
    part = made(centre=centre, sinks=sinks, bias=bias)
    seen = set()
    for token, y in zip(x.reshape(-1, D).tolist(), part(x).reshape(-1, D).tolist(), strict=True):
        mean, own = size_of(token, centre)
        size = 60.0 if sinks and own > 10.0 else 1.7
        seen.add(size)
        offset = part.bias.tolist() if bias else [0.0] * D
        expected = [part.weight[i].item() * (token[i] - mean) / size + offset[i] for i in range(D)]
        assert y == pytest.approx(expected, rel=1e-10)
    assert len(seen) == 1 + sinks


@pytest.mark.oracle("fixed_norm")
def test_for_tokens_of_the_size_that_it_divides_by_it_is_the_norm(x):
    for centre, norm in ((True, LayerNorm(D, eps=0.0)), (False, RMSNorm(D, eps=0.0, bias=True))):
        centred = x - x.mean(-1, keepdim=True) if centre else x
        same = centred / centred.square().mean(-1, keepdim=True).sqrt() * 1.7 + (3.0 if centre else 0.0)
        part = made(centre=centre)
        norm.double().load_state_dict({"weight": part.weight, "bias": part.bias})
        torch.testing.assert_close(part(same), norm(same))


@pytest.mark.oracle("fixed_norm")
def test_until_its_steps_are_done_it_is_the_norm_and_measures_then_it_is_fixed(x):
    part = made(steps=2, sinks=True)
    norm = LayerNorm(D, eps=EPS).double()
    norm.load_state_dict({"weight": part.weight, "bias": part.bias})
    own = [size_of(token, True)[1] for token in x.reshape(-1, D).tolist()]
    small, large = ([s for s in own if (s > 10.0) == which] for which in (False, True))
    std, sink_std = 1.7, 60.0
    for step in (1, 2):
        torch.testing.assert_close(part.eval()(x), norm(x))
        assert not part.finished
        torch.testing.assert_close(part.train()(x), norm(x))
        std += MOMENTUM * (sum(small) / len(small) - std)
        sink_std += MOMENTUM * (sum(large) / len(large) - sink_std)
        assert part.std.item() == pytest.approx(std, rel=1e-6)
        assert part.sink_std.item() == pytest.approx(sink_std, rel=1e-6)
        assert int(part.step) == step
    fixed = FixedNorm(D, sinks=True).double()
    kept = {name: tensor for name, tensor in part.state_dict().items() if name != "step"}
    fixed.load_state_dict(kept)
    for mode in (False, True):
        torch.testing.assert_close(part.train(mode)(x), fixed(x))
    assert part.std.item() == pytest.approx(std, rel=1e-6), "what is fixed is not measured any more"


def test_finished_is_fixed_and_the_same_for_all_tokens():
    assert made().finished
    assert not made(sinks=True).finished
    part = made(steps=1)
    assert not part.finished
    part.train()(torch.randn(3, D).double())
    assert part.finished


@pytest.mark.parametrize("centre", [True, False])
def test_as_affine_says_what_it_computes(x, centre):
    part = made(centre=centre)
    factor, constant = part.as_affine()
    centred = x - x.mean(-1, keepdim=True) if centre else x
    torch.testing.assert_close(part(x), factor * centred + constant)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="steps must be an integer"):
        FixedNorm(4, steps=-1)
    with pytest.raises(ValueError, match="eps must be at least 0"):
        FixedNorm(4, eps=-1.0)


def test_a_sink_is_told_in_float16_too():
    """Its square, and that of the threshold, are beyond what float16 holds."""
    part = FixedNorm(4, sinks=True).half().eval()
    part.std.fill_(100.0)
    part.sink_std.fill_(1000.0)
    part.threshold.fill_(400.0)
    x = torch.tensor([[1000.0, -1000.0], [200.0, -200.0]], dtype=torch.float16).repeat(1, 2)
    assert part(x).tolist() == [[1.0, -1.0, 1.0, -1.0], [2.0, -2.0, 2.0, -2.0]]
