"""Averaged experts: shares of the tokens, the averaging step, and the dense layer that is left."""

import math

import pytest
import torch

from layersmith.ffn.averaged_copies import AveragedCopies
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP

D, HIDDEN = 5, 7
FORMS = [(MLP, True), (MLP, False), (GLU, True), (GLU, False)]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def dense(kind=MLP, bias=True):
    torch.manual_seed(1)
    return kind(D, HIDDEN, act="silu", bias=bias).double()


def spread(kind=MLP, bias=True, n_experts=3, share=0.25) -> AveragedCopies:
    """Copies that have been trained apart."""
    part = AveragedCopies.from_dense(dense(kind, bias), n_experts, share)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(torch.randn_like(parameter))
    return part


def silu(v: float) -> float:
    return v / (1 + math.exp(-v))


def by_loops(weights: dict[str, torch.Tensor], token: list[float]) -> list[float]:
    def times(name, v):
        rows, offsets = weights[name].tolist(), weights.get(f"{name}_bias", torch.zeros(99)).tolist()
        return [sum(w * a for w, a in zip(row, v, strict=True)) + b for row, b in zip(rows, offsets, strict=False)]

    up = times("up", token)
    opened = times("gate", token) if "gate" in weights else up
    hidden = [silu(g) * (u if "gate" in weights else 1.0) for g, u in zip(opened, up, strict=True)]
    return times("down", hidden)


@pytest.mark.oracle("averaged_copies")
@pytest.mark.parametrize(("kind", "bias"), FORMS)
def test_inference_is_one_layer_with_the_mean_of_all_weights(x, kind, bias):
    part = spread(kind, bias).eval()
    mean = {name: torch.stack([p.detach()[i] for i in range(3)]).sum(0) / 3 for name, p in part.named_parameters()}
    y = part(x)
    for token, row in zip(x.reshape(-1, D).tolist(), y.reshape(-1, D).tolist(), strict=True):
        assert row == pytest.approx(by_loops(mean, token), rel=1e-9, abs=1e-11)
    torch.testing.assert_close(part.collapsed()(x), y)
    assert type(part.collapsed()) is kind


@pytest.mark.oracle("averaged_copies")
@pytest.mark.parametrize(("kind", "bias"), FORMS)
def test_in_training_every_token_is_given_to_one_expert_in_equal_shares(x, kind, bias):
    part = spread(kind, bias).train()
    weights = [{name: p.detach()[i] for name, p in part.named_parameters()} for i in range(3)]
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        given = []
        for token, row in zip(x.reshape(-1, D).tolist(), part(x).reshape(-1, D).tolist(), strict=True):
            near = [max(abs(a - b) for a, b in zip(by_loops(own, token), row, strict=True)) for own in weights]
            assert min(near) < 1e-9
            given.append(near.index(min(near)))
        assert [given.count(i) for i in range(3)] == [8, 8, 8]
        drawn.append(given)
    assert drawn[0] != drawn[1]
    assert drawn[0] != sorted(drawn[0])


@pytest.mark.oracle("averaged_copies")
def test_copies_are_drawn_together_once_a_step_and_never_without_one(x):
    part = spread(share=0.25).train()
    part(x)
    start = {name: p.detach().clone() for name, p in part.named_parameters()}
    part(x)
    part.eval()(x)
    part.train()
    with torch.no_grad():
        part(x)
    assert all(torch.equal(p, start[name]) for name, p in part.named_parameters()), "no step, no change"
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
    part(x).square().sum().backward()
    optimizer.step()
    stepped = {name: p.detach().clone() for name, p in part.named_parameters()}
    part(x)
    part(x)  # a second forward of one step
    for name, p in part.named_parameters():
        for i in range(3):
            others = sum(stepped[name][j] for j in range(3) if j != i) / 2
            torch.testing.assert_close(p[i], 0.75 * stepped[name][i] + 0.25 * others)
        torch.testing.assert_close(p.mean(0), stepped[name].mean(0))


def test_training_that_is_taken_up_again_goes_on_as_it_would_have(x):
    part = spread(share=0.25).train()
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
    part(x).square().sum().backward()
    optimizer.step()
    again = AveragedCopies(D, HIDDEN, 3, 0.25, act="silu").double().train()
    again.load_state_dict(part.state_dict())
    part(x)
    again(x)
    assert all(torch.equal(p, q) for p, q in zip(part.parameters(), again.parameters(), strict=True))


@pytest.mark.oracle("averaged_copies")
def test_copies_that_always_meet_are_the_dense_layer_at_a_smaller_rate(x):
    """b = (N - 1) / N with plain SGD is dense SGD at the learning rate / N, step for step."""
    n, rate = 4, 0.2
    part = AveragedCopies.from_dense(dense(), n, share=(n - 1) / n).train()
    plain = dense()
    ours, theirs = torch.optim.SGD(part.parameters(), lr=rate), torch.optim.SGD(plain.parameters(), lr=rate / n)
    target = torch.randn_like(x)
    for _ in range(5):
        for layer, optimizer in ((part, ours), (plain, theirs)):
            optimizer.zero_grad()
            (layer(x) - target).square().mean().backward()
            optimizer.step()
    for p, q in zip(part.collapsed().parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    assert (plain.up.weight - dense().up.weight).abs().max() > 1e-4


def test_copies_start_equal_and_are_the_layer_they_come_from(x):
    fresh = AveragedCopies(D, HIDDEN)
    assert all(torch.equal(p[0], p[i]) for p in fresh.parameters() for i in range(4))
    assert fresh.up[0].std() > 0
    layer = dense(GLU, False)
    part = AveragedCopies.from_dense(layer, 2)
    torch.testing.assert_close(part.eval()(x), layer(x))
    torch.testing.assert_close(part.train()(x), layer(x))


def test_fewer_tokens_than_experts_are_possible(x):
    assert torch.isfinite(spread().train()(x[:1, :1])).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [({"n_experts": 1}, "at least 2"), ({"share": 1.5}, r"share must lie in \[0, 1\]"), ({"d_hidden": 0}, "d_hidden")],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        AveragedCopies(**{"d_model": D, "d_hidden": HIDDEN, **config})
