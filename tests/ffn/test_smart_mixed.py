"""SmartMixed: an oracle, the MLP at a pool of one, the frozen form, and what training does to the choices."""

import math

import pytest
import torch

from layersmith.ffn.mlp import MLP
from layersmith.ffn.smart_mixed import POOL, SmartMixed

D, HIDDEN = 6, 20

BY_NAME = {
    "relu": lambda v: max(v, 0.0),
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "tanh": math.tanh,
    "leaky_relu": lambda v: v if v > 0 else 0.01 * v,
    "elu": lambda v: v if v > 0 else math.exp(v) - 1,
    "selu": lambda v: 1.0507009873554805 * (v if v > 0 else 1.6732632423543772 * (math.exp(v) - 1)),
}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(**config) -> SmartMixed:
    torch.manual_seed(1)
    m = SmartMixed(D, HIDDEN, **config).double()
    if m.logits is not None:
        torch.nn.init.normal_(m.logits)
    return m.eval()


def affine(token: list[float], linear: torch.nn.Linear) -> list[float]:
    rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, token, strict=True)) + b for row, b in rows]


@pytest.mark.oracle("smart_mixed")
def test_by_loops(x):
    m = part()
    chosen = [POOL[row.index(max(row))] for row in m.logits.tolist()]
    assert len(set(chosen)) == len(POOL)
    for token, y in zip(x.reshape(-1, D).tolist(), m(x).reshape(-1, D).tolist(), strict=True):
        hidden = [BY_NAME[name](v) for name, v in zip(chosen, affine(token, m.up), strict=True)]
        assert y == pytest.approx(affine(hidden, m.down), rel=1e-9)


@pytest.mark.oracle("smart_mixed")
def test_frozen_equals_choosing(x):
    m = part()
    frozen = m.freeze()
    torch.testing.assert_close(frozen(x), m(x), rtol=1e-12, atol=1e-14)
    assert frozen.counts() == m.counts() == frozen.spec()["groups"]
    assert frozen.logits is None
    with pytest.raises(ValueError, match="frozen already"):
        frozen.freeze()


@pytest.mark.oracle("smart_mixed")
def test_a_pool_of_one_is_the_mlp(x):
    m, mlp = part(pool=["tanh"]), MLP(D, HIDDEN, act="tanh").double()
    m.load_state_dict({**mlp.state_dict(), "logits": m.logits})
    torch.testing.assert_close(m(x), mlp(x))


def test_training_draws_choices_in_the_proportions_of_the_softmax():
    m = part(pool=["relu", "tanh"]).train()
    with torch.no_grad():
        m.logits.copy_(torch.tensor([0.0, 1.0]).expand(HIDDEN, 2))
    torch.manual_seed(0)
    share = torch.stack([m.choice(m.logits)[:, 1] for _ in range(400)]).mean()
    assert share.item() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)


def test_a_seed_fixes_the_choices(x):
    m = part().train()
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(m(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_the_gradient_of_the_logits_is_that_of_the_softmax(x):
    m = part(temperature=0.7).train()
    torch.manual_seed(5)
    (m(x) ** 2).sum().backward()
    torch.manual_seed(5)
    noise = -(-torch.rand_like(m.logits).log()).log()
    logits = m.logits.detach().clone().requires_grad_()
    soft = ((logits + noise) / 0.7).softmax(-1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), len(POOL)).double()
    values = torch.stack([act(m.up(x)) for act in m.acts], -1).detach()
    y = m.down((values * hard).sum(-1)).detach()
    slope = torch.einsum("btd,dh,btha->ha", 2 * y, m.down.weight.detach(), values)  # d loss / d choice
    (soft * slope).sum().backward()
    torch.testing.assert_close(m.logits.grad, logits.grad, rtol=1e-6, atol=1e-9)


def test_training_finds_the_activation_that_made_the_data():
    torch.manual_seed(0)
    m = SmartMixed(1, 8, pool=["relu", "tanh"], temperature=0.5, bias=False)
    with torch.no_grad():
        m.up.weight.fill_(2.0)
        m.down.weight.fill_(0.125)
    x = torch.linspace(-2, 2, 64)[:, None]
    optimizer = torch.optim.Adam([m.logits], lr=0.05)
    for _ in range(200):
        loss = (m(x) - torch.tanh(2 * x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert m.counts()[1] >= 7


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pool": []}, "at least one activation"),
        ({"pool": ["rleu"]}, "relu"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"groups": [20]}, "one count for each of the 6 activations"),
        ({"groups": [20, 1, 0, 0, 0, 0]}, "20 neurons together"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        part(**config)
