"""The survey `bounds`: bounds hold on 10,000 samples, are exact where nothing bends, never looser than intervals."""

from __future__ import annotations

import pytest
import torch

from layersmith.errors import UserError
from layersmith.explaining.bounding.chain import Affine, Ball, Gated, backward, chain_of, forward, interval, planes
from layersmith.explaining.bounding.lines import CURVATURE, VALLEY, Bend, lines, span
from layersmith.explaining.pipeline import explain
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import ACTIVATIONS
from tests.explaining.conftest import tiny

WAYS = {"interval": interval, "forward": forward, "backward": backward}
SAMPLES = 10_000
KINKS = ("relu", "leaky_relu", "selu")


def points(ball: Ball, seed: int = 0) -> torch.Tensor:
    """(SAMPLES, D) in the first ball: half on its surface."""
    draws = torch.Generator().manual_seed(seed)
    steps = torch.randn(SAMPLES, ball.centre.shape[1], generator=draws, dtype=torch.float64)
    length = torch.rand(SAMPLES, 1, generator=draws, dtype=torch.float64)
    length[: SAMPLES // 2] = 1
    return ball.centre[0] + ball.radius[0] * length * steps / steps.norm(dim=-1, keepdim=True)


def affine(rows: int, columns: int, seed: int, scale: float = 1.0) -> Affine:
    draws = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(rows, columns, generator=draws, dtype=torch.float64)
    return Affine(weight, torch.randn(rows, generator=draws, dtype=torch.float64))


def run(chain, x):
    for layer in chain:
        if isinstance(layer, Affine):
            x = x @ layer.weight.T + layer.bias
        elif isinstance(layer, Gated):
            gate, up = (x @ part.weight.T + part.bias for part in (layer.gate, layer.up))
            x = layer.bend.f(gate) * up
        else:
            x = layer.f(x)
    return x


def bend(name: str) -> Bend:
    found = Bend.of(ACTIVATIONS[name])
    assert found is not None
    return found


@pytest.mark.parametrize("name", CURVATURE)
def test_the_stated_curvature_is_none_too_small(name) -> None:
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    z = z[z.abs() > 1e-6].requires_grad_()
    (slope,) = torch.autograd.grad(ACTIVATIONS[name](z).sum(), z, create_graph=True)
    curvature = torch.zeros_like(z)
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), z, allow_unused=True, materialize_grads=True)
    assert float(curvature.abs().max()) <= CURVATURE[name]


@pytest.mark.parametrize("name", CURVATURE)
def test_every_activation_falls_up_to_its_valley_and_rises_from_there_on(name) -> None:
    valley = bend(name).valley
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    steps = ACTIVATIONS[name](z).diff()
    assert (steps[z[1:] <= valley] <= 1e-15).all()
    assert (steps[z[:-1] >= valley] >= -1e-15).all()
    if name in VALLEY:
        at = torch.tensor(valley, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(ACTIVATIONS[name](at), at)
        assert slope.abs() < 1e-14


@pytest.mark.parametrize("name", CURVATURE)
def test_lines_and_span_hold_on_every_interval(name) -> None:
    draws = torch.Generator().manual_seed(0)
    low = 4 * torch.randn(300, generator=draws, dtype=torch.float64)
    high = low + 4 * torch.rand(300, generator=draws, dtype=torch.float64) ** 3
    high[:5] = low[:5]
    shares = torch.rand(2000, 1, generator=draws, dtype=torch.float64)
    z = torch.cat((low + shares * (high - low), low[None], high[None], torch.zeros_like(low).clamp(low, high)[None]))
    y, line = ACTIVATIONS[name](z), lines(bend(name), low, high)
    assert ((line.lower_slope * z + line.lower_offset) - y).max() <= 1e-12
    assert (y - (line.upper_slope * z + line.upper_offset)).max() <= 1e-12
    least, largest = span(bend(name), low, high)
    assert (least - y).max() <= 1e-12
    assert (y - largest).max() <= 1e-12
    assert (largest - y.amax(0)).max() <= 1e-12  # and the span is no wider than it must be
    assert (least - y.amin(0)).min() >= -1e-5
    room = (line.upper_slope - line.lower_slope) * (low + high) / 2 + line.upper_offset - line.lower_offset
    assert (room <= largest - least + 1e-9).all()  # never worse than the flat lines


def test_planes_hold_touch_the_product_and_vary_least() -> None:
    """Against a search over all means of the two touching planes, on random boxes and on points and segments."""
    draws = torch.Generator().manual_seed(0)
    middle = 3 * torch.randn(2, 400, generator=draws, dtype=torch.float64)
    half = torch.rand(2, 400, generator=draws, dtype=torch.float64) ** 2
    half[0, :3] = half[1, 1:4] = 0
    (low, least), (high, most) = middle - half, middle + half
    shares = torch.rand(2, 500, 1, generator=draws, dtype=torch.float64)
    shares[:, :4, 0] = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]], dtype=torch.float64)
    x, y = low + shares[0] * (high - low), least + shares[1] * (most - least)
    below, above = planes((low, high), (least, most))
    searched = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    for plane, sign, ends in ((below, 1, (least, most)), (above, -1, (most, least))):
        room = sign * (x * y - plane.of_gate * x - plane.of_up * y - plane.offset)
        assert room.min() >= -1e-12
        assert room.amin(0).max() <= 1e-12
        assert torch.isfinite(room).all()
        varies = (plane.of_gate * half[0]) ** 2 + (plane.of_up * half[1]) ** 2
        others = [(searched * a + (1 - searched) * b) * h for (a, b), h in zip((ends, (low, high)), half, strict=True)]
        best = (others[0] ** 2 + others[1] ** 2).amin(0)
        assert (varies <= best + 1e-9).all()


@pytest.mark.parametrize("radius", [0.01, 0.5, 3.0])
@pytest.mark.parametrize(
    "operator",
    [MLP(6, 20, act="gelu"), MLP(6, 20, act="relu"), GLU(6, 20, act="silu"), GLU(6, 20, act="sigmoid", bias=True)],
    ids=["gelu", "relu", "swiglu", "glu"],
)
def test_no_sample_leaves_the_bounds(operator, radius) -> None:
    torch.manual_seed(0)
    operator = operator.double()
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.normal_()
        ball = Ball(torch.randn(1, 6, dtype=torch.float64), torch.tensor([radius], dtype=torch.float64))
        chain = chain_of(operator)
        y = operator(points(ball))
        plain = interval(chain, ball)
        for name, way in WAYS.items():
            found = way(chain, ball)
            assert (y >= found.low).all(), name
            assert (y <= found.high).all(), name
            assert (found.low >= plain.low).all(), name
            assert (found.high <= plain.high).all(), name
        reached = (y.amax(0) - y.amin(0)).mean()
        assert backward(chain, ball).width[0] < (4 if radius < 0.1 else 50) * reached
        if radius < 1:
            assert backward(chain, ball).width[0] < 0.9 * plain.width[0]


def test_a_deep_chain_with_products_in_the_middle() -> None:
    chain = [
        affine(12, 5, 0, 0.5),
        bend("tanh"),
        Gated(affine(10, 12, 1, 0.3), affine(10, 12, 2, 0.3), bend("gelu")),
        affine(8, 10, 3, 0.3),
        bend("silu"),
        affine(4, 8, 4, 0.3),
    ]
    ball = Ball(torch.randn(1, 5, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64))
    y, plain = run(chain, points(ball)), interval(chain, ball)
    widths = {}
    for name, way in WAYS.items():
        found = way(chain, ball)
        assert (y >= found.low).all(), name
        assert (y <= found.high).all(), name
        assert (found.low >= plain.low).all(), name
        assert (found.high <= plain.high).all(), name
        widths[name] = float(found.width[0])
    assert widths["backward"] < widths["forward"] < widths["interval"]


def test_without_a_bend_the_bounds_are_reached() -> None:
    chain = [affine(7, 4, 0), bend("identity"), affine(3, 7, 1)]
    ball = Ball(torch.randn(2, 4, dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64))
    weight = chain[2].weight @ chain[0].weight
    exact = ball.radius[:, None] * weight.norm(dim=-1)
    middle = run(chain, ball.centre)
    for way in (forward, backward):
        found = way(chain, ball)
        assert torch.allclose(found.high, middle + exact, atol=1e-7)
        assert torch.allclose(found.low, middle - exact, atol=1e-7)
    assert interval(chain, ball).width[0] > 1.05 * 2 * exact[0].mean()  # intervals forget what moves together


def test_a_larger_ball_has_wider_bounds_and_balls_do_not_mix() -> None:
    chain = chain_of(GLU(5, 9).double())
    centres = torch.randn(3, 5, dtype=torch.float64)
    radii = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    for way in WAYS.values():
        whole = way(chain, Ball(centres, radii))
        for row in range(3):
            alone = way(chain, Ball(centres[row : row + 1], radii[row : row + 1]))
            assert torch.allclose(alone.low[0], whole.low[row], atol=1e-12)
        same = way(chain, Ball(centres[:1].expand(3, -1), radii))
        assert (same.width[1:] > same.width[:-1]).all()


def test_an_activation_of_unknown_curvature_is_not_bounded() -> None:
    assert chain_of(MLP(4, 4, act="mish")) is None
    assert Bend.of(torch.sin) is None


def bounds(model, tokenizer, out, **settings):
    given = {"points": 2, "samples": 200, **settings}
    return explain(model, tool="bounds", tokenizer=tokenizer, tokens=256, progress=False, out=out, settings=given)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert", "vit", "t5"])
def test_feed_forwards_of_every_shape_of_model(shape, tokenizer, tmp_path) -> None:
    found = bounds(tiny(shape), None if shape == "vit" else tokenizer, tmp_path / "o")["survey"]
    assert len(found["sites"]) == (4 if shape == "t5" else 2)
    for row in found["sites"].values():
        widths = row["widths"]
        assert row["outside"] == 0
        assert widths["sampled"] <= widths["backward"] <= widths["interval"]
        assert widths["sampled"] <= widths["forward"] <= widths["interval"]
    assert "Certified bounds" in (tmp_path / "o" / "report.html").read_text()


def test_bad_settings_and_sites_are_told_in_words(llama, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="share of the input's length"):
        bounds(llama, tokenizer, tmp_path / "o", radius=0.0)
    with pytest.raises(UserError, match="at least 1"):
        bounds(llama, tokenizer, tmp_path / "o", points=0)
    with pytest.raises(UserError, match="those of feed-forwards"):
        explain(
            llama, tool="bounds", sites="*.attn", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "p"
        )
