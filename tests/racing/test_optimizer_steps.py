"""Every optimizer takes the steps of its paper's formula, written again in float64, and equals AdamW in its limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from layersmith.racing.optimizer import set_rate
from layersmith.racing.optimizers import build_rule
from layersmith.racing.optimizers.blockwise_adamw import FACTORS, kind_of
from layersmith.racing.optimizers.mkor import updated
from layersmith.racing.optimizers.whitened_adamw import whitened

from .toy import DECAY, LR, Toy, X, gradient_at, stepped

B1, B2, EPS = 0.9, 0.95, 1e-8


def by_hand(
    update: Callable[[str, np.ndarray, dict[str, Any], int], np.ndarray],
    gradients: Callable[[Toy], dict[str, np.ndarray]] | None = None,
    steps: int = 3,
) -> dict[str, np.ndarray]:
    """The parameters when each moves by -LR * update(name, gradient, what it remembers, t) after its decay."""
    model, kept = Toy().train(), {name: {} for name, _ in Toy().named_parameters()}  # type: ignore[var-annotated]
    for t in range(1, steps + 1):
        found = (gradients or plain)(model)
        with torch.no_grad():
            for name, p in model.named_parameters():
                decay = DECAY if p.ndim > 1 else 0.0
                p.mul_(1 - LR * decay)
                p.sub_(LR * torch.tensor(update(name, found[name], kept[name], t)))
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def plain(model: Toy) -> dict[str, np.ndarray]:
    gradient_at(model)()
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}


def adam(name: str, g: np.ndarray, kept: dict[str, Any], t: int) -> np.ndarray:
    kept["m"] = B1 * kept.get("m", 0.0) + (1 - B1) * g
    kept["v"] = B2 * kept.get("v", 0.0) + (1 - B2) * g**2
    return (kept["m"] / (1 - B1**t)) / (np.sqrt(kept["v"] / (1 - B2**t)) + EPS)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-10) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)


def test_adamw() -> None:
    same(stepped(build_rule("adamw")), by_hand(adam))


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd(momentum: float) -> None:
    def step(name: str, g: np.ndarray, kept: dict[str, Any], t: int) -> np.ndarray:
        kept["m"] = momentum * kept.get("m", 0.0) + g
        return kept["m"]

    same(stepped(build_rule({"name": "sgd", "momentum": momentum})), by_hand(step))


def test_cautious_adamw_moves_what_agrees_with_its_gradient_by_as_much_more() -> None:
    held = []

    def cautious(name: str, g: np.ndarray, kept: dict[str, Any], t: int) -> np.ndarray:
        u = adam(name, g, kept, t)
        mask = u * g > 0
        held.append((~mask).sum())
        return u * mask * mask.size / (mask.sum() + 1)

    same(stepped(build_rule("cautious_adamw"), 6), by_hand(cautious, steps=6))
    assert sum(held) > 0, "somewhere momentum and gradient disagree"


def test_sam_takes_the_gradient_uphill() -> None:
    rho = 0.3

    def uphill(model: Toy) -> dict[str, np.ndarray]:
        g = plain(model)
        length = math.sqrt(sum((each**2).sum() for each in g.values()))
        moved = Toy()
        moved.load_state_dict(model.state_dict())
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(torch.tensor(rho * g[name] / length))
        return plain(moved)

    same(stepped(build_rule({"name": "sam", "rho": rho})), by_hand(adam, uphill))


def test_blockwise_factors_and_kinds() -> None:
    def blockwise(name: str, g: np.ndarray, kept: dict[str, Any], t: int) -> np.ndarray:
        return adam(name, g, kept, t)

    model, rule = Toy(), build_rule("blockwise_adamw")
    (optimizer,) = rule.optimizers(model, LR, DECAY)
    set_rate([optimizer], LR)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    kinds = {
        "embed.weight": "ends",
        "layers.0.mixer.q.weight": "queries and keys",
        "layers.0.mixer.v.weight": "values and outputs",
        "layers.0.ffn.up.weight": "ffn",
        "layers.0.ffn.up.bias": "vectors",
        "head.weight": "ends",
    }
    for name, p in model.named_parameters():
        assert kind_of(name, p) == kinds[name]
        assert rates[id(p)] == pytest.approx(LR * FACTORS[kinds[name]])
    assert list(FACTORS.values()) == [10, 8, 6, 4, 1]
    same(stepped(build_rule({"name": "blockwise_adamw", "flat": True})), by_hand(blockwise))


def test_gradient_noise_has_the_variance_of_its_step_and_none_is_adamw() -> None:
    same(stepped(build_rule({"name": "gradient_noise", "eta": 0.0})), by_hand(adam))
    model = nn.ModuleDict({"head": nn.Linear(300, 300, bias=False)})
    rule = build_rule({"name": "gradient_noise", "eta": 0.5})
    noise, _ = rule.optimizers(model, LR, 0.0)
    for t in range(5):
        model["head"].weight.grad = torch.ones(300, 300)
        noise.step()
        added = model["head"].weight.grad - 1
        assert float(added.var()) == pytest.approx(0.5 / (1 + t) ** 0.55, rel=0.02)
        assert abs(float(added.mean())) < 0.02


def test_muon_steps_by_the_orthogonalised_momentum_of_hidden_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    mu = 0.95

    def muon(name: str, g: np.ndarray, kept: dict[str, Any], t: int) -> np.ndarray:
        if not ("mixer" in name or name.endswith("up.weight")):
            return adam(name, g, kept, t)
        kept["momentum"] = mu * kept.get("momentum", 0.0) + (1 - mu) * g
        return 0.2 * math.sqrt(max(g.shape)) * newton_schulz((1 - mu) * g + mu * kept["momentum"])

    def exact(x: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.tensor(newton_schulz(x.numpy()))

    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", exact)  # torch's own rounds to bfloat16
    same(stepped(build_rule("muon")), by_hand(muon))


def test_muons_singular_values_become_about_one() -> None:
    draw = torch.Generator().manual_seed(0)
    for shape in ((12, 12), (8, 20), (20, 8)):
        model = nn.ModuleDict({"layers": nn.Linear(shape[1], shape[0], bias=False), "head": nn.Linear(2, 2)})
        muon, _ = build_rule("muon").optimizers(model, 1.0, 0.0)
        before = model["layers"].weight.detach().clone()
        g = model["layers"].weight.grad = torch.randn(*shape, generator=draw)
        muon.step()
        update = (before - model["layers"].weight.detach()) / (0.2 * math.sqrt(max(shape)))
        expected = torch.tensor(newton_schulz(g.double().numpy()))
        assert float((update - expected).norm() / expected.norm()) < 0.05
        values = torch.linalg.svdvals(update)
        assert float(values.min()) > 0.5
        assert float(values.max()) < 1.3


def newton_schulz(x: np.ndarray) -> np.ndarray:
    """Five steps, as written in the paper, of the matrix over its Frobenius norm."""
    a, b, c = 3.4445, -4.775, 2.0315
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def test_max_norm_shortens_what_enters_a_unit() -> None:
    found = stepped(build_rule({"name": "max_norm", "longest": 0.3}))
    for name, value in found.items():
        if name.endswith("weight") and name.startswith("layers"):
            assert (np.linalg.norm(value, axis=1) <= 0.3 + 1e-12).all()
    assert np.linalg.norm(found["head.weight"], axis=1).max() > 0.3, "ends are left alone"
    same(stepped(build_rule({"name": "max_norm", "longest": 1e9})), by_hand(adam))


def test_mkors_inverse_is_the_inverse() -> None:
    draw = torch.Generator().manual_seed(0)
    factor, inverse = torch.eye(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    for _ in range(100):
        v = torch.randn(6, generator=draw, dtype=torch.float64)
        factor, inverse = 0.9 * factor + 0.1 * torch.outer(v, v), updated(inverse, v, 0.9)
        torch.testing.assert_close(inverse, factor.inverse(), rtol=1e-10, atol=1e-10)


def test_mkor_takes_inputs_and_output_gradients_of_the_step() -> None:
    c = 0.8

    def preconditioned(model: Toy) -> dict[str, np.ndarray]:
        g = plain(model)
        (layer,) = model.layers
        h = model.embed(X).detach()
        middle = (torch.tanh(layer["mixer"]["q"](h)) * layer["mixer"]["v"](h)).detach()
        out = layer["ffn"]["up"](middle).detach().requires_grad_()
        (model.head(torch.tanh(out)) - 1).square().mean().backward()
        assert out.grad is not None
        left, right = kept.get("left", np.eye(6)), kept.get("right", np.eye(4))
        v = (out.grad.mean(0) / out.grad.square().mean().sqrt()).numpy()
        a = middle.mean(0).numpy()
        kept["left"] = np.linalg.inv(c * np.linalg.inv(left) + (1 - c) * np.outer(v, v))
        kept["right"] = np.linalg.inv(c * np.linalg.inv(right) + (1 - c) * np.outer(a, a))
        name = "layers.0.ffn.up.weight"
        changed = kept["left"] @ g[name] @ kept["right"]
        g[name] = changed * np.linalg.norm(g[name]) / np.linalg.norm(changed)
        return g

    kept: dict[str, np.ndarray] = {}
    found = stepped(build_rule({"name": "mkor", "momentum": c}), 1)
    expected = by_hand(adam, preconditioned, steps=1)
    same(found, {name: expected[name] for name in ("layers.0.ffn.up.weight", "layers.0.ffn.up.bias")})


def test_mkor_is_held_back_where_an_inverse_grows() -> None:
    rule = build_rule({"name": "mkor", "momentum": 0.8, "largest": 2.0})
    model = Toy().train()
    optimizers = rule.optimizers(model, LR, 0.0)
    for _ in range(30):
        rule.step(optimizers, gradient_at(model))
    for state in optimizers[0].state.values():
        assert 1.0 < float(state["left"].abs().max()) <= 2.0
        assert float(state["right"].abs().max()) <= 2.0


def test_a_whitened_gradient_is_that_of_white_inputs() -> None:
    """Training on A x moves W A by the gradient times A^T A (the paper's equivalence), and here A^T A is R^-1."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=draw, dtype=torch.float64) @ torch.randn(4, 4, generator=draw, dtype=torch.float64)
    w = torch.randn(3, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    (x @ w.T).square().sum().backward()
    moment = x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(moment)
    white = vectors @ torch.diag(values**-0.5) @ vectors.T
    inner = (w.detach() @ white.inverse()).requires_grad_()
    (x @ white @ inner.T).square().sum().backward()
    assert w.grad is not None
    assert inner.grad is not None
    expected = inner.grad @ white
    expected = expected * w.grad.norm() / expected.norm()
    torch.testing.assert_close(whitened(w.grad, moment, 1e-12), expected, rtol=1e-6, atol=1e-6)
    identity = whitened(w.grad, torch.eye(4, dtype=torch.float64), 0.1)
    torch.testing.assert_close(identity, w.grad, rtol=1e-12, atol=1e-12)


def test_whitened_adamw_sees_the_inputs_of_the_step() -> None:
    def changed(model: Toy) -> dict[str, np.ndarray]:
        g = plain(model)
        h = model.embed(X).detach()
        for name in ("layers.0.mixer.q.weight", "layers.0.mixer.v.weight"):
            g[name] = whitened(torch.tensor(g[name]), h.T @ h / len(h), 0.1).numpy()
        return g

    found, expected = stepped(build_rule("whitened_adamw"), 1), by_hand(adam, changed, steps=1)
    same(found, {name: expected[name] for name in expected if "mixer" in name or name.startswith("head")})
