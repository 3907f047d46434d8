"""Carved MoE: a GLU's neurons regrouped."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.ffn.carved_moe import CarvedMoE
from layersmith.ffn.glu import GLU

D, HIDDEN, SIZE = 6, 20, 4


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 9, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def glu() -> GLU:
    torch.manual_seed(1)
    return GLU(D, HIDDEN).double()


def carve(glu: GLU, k: int, **options) -> tuple[CarvedMoE, torch.Tensor, torch.Tensor]:
    """One shared expert and four routed ones from a random partition; each is represented by its second neuron."""
    order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(2))
    shared, routed = order[:SIZE], order[SIZE:].unflatten(0, (4, SIZE))
    return CarvedMoE.from_glu(glu, shared, routed, routed[:, 1], k, **options), shared, routed


def silu(v: float) -> float:
    return v / (1 + math.exp(-v))


def dot(row: torch.Tensor, token: torch.Tensor) -> float:
    return sum(a * b for a, b in zip(row.tolist(), token.tolist(), strict=True))


def by_loops(glu: GLU, m: CarvedMoE, shared: torch.Tensor, routed: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """From the original GLU's weights and the partition; only u and the balance come from the part."""
    gate, up, down = (w.detach() for w in (glu.gate.weight, glu.up.weight, glu.down.weight))

    def neuron(i: int) -> torch.Tensor:
        return silu(dot(gate[i], token)) * dot(up[i], token) * down[:, i]

    answers = []
    for e in range(len(routed)):
        i = int(routed[e, 1])
        answers.append(abs(silu(dot(gate[i], token) / float(gate[i].norm())) * dot(up[i], token) / float(up[i].norm())))
    total = sum(math.exp(a) for a in answers)
    score = [math.exp(a) / total for a in answers]
    best = sorted(range(len(routed)), key=lambda e: -(score[e] + m.balance[e].item()))[: m.k]
    y = sum(neuron(int(i)) for i in shared)
    for e in best:
        y = y + (1 + m.scale[e].item() * score[e]) * sum(neuron(int(i)) for i in routed[e])
    return y


@pytest.mark.oracle("carved_moe")
@pytest.mark.parametrize("k", [1, 2, 4])
def test_by_loops(x, glu, k):
    m, shared, routed = carve(glu, k)
    torch.nn.init.normal_(m.scale)
    m.balance.copy_(torch.tensor([0.0, 0.2, -0.2, 0.05]))
    for token, y in zip(x.reshape(-1, D), m(x).reshape(-1, D), strict=True):
        torch.testing.assert_close(y, by_loops(glu, m, shared, routed, token))


@pytest.mark.oracle("carved_moe")
def test_all_experts_at_the_start_are_the_original(x, glu):
    torch.testing.assert_close(carve(glu, k=4)[0](x), glu(x), rtol=1e-10, atol=1e-12)


def test_fewer_experts_are_not(x, glu):
    assert (carve(glu, k=2)[0](x) - glu(x)).abs().max() > 1e-3


def test_balance_moves_towards_equal_use_in_training_only(x, glu):
    m = carve(glu, k=1, balance_speed=0.01)[0]
    before = m.balance.clone()
    m.eval()(x)
    assert torch.equal(m.balance, before)

    def used() -> torch.Tensor:
        tokens = x.reshape(-1, D)
        answer = torch.nn.functional.silu(tokens @ m.router_gate.T) * (tokens @ m.router_up.T)
        return torch.bincount((answer.abs().softmax(-1) + m.balance).argmax(-1), minlength=4)

    start = used()
    m.train()(x)
    torch.testing.assert_close(m.balance, -0.01 * torch.sign(start - start.double().mean()))
    for _ in range(100):
        m(x)
    assert used().double().std() < start.double().std()


def test_balance_is_fixed_by_default(x, glu):
    m = carve(glu, k=1)[0].train()
    m(x)
    assert not m.balance.any()


def test_cost_is_that_of_the_chosen_experts(x, glu):
    m = carve(glu, k=2)[0]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        m(x)
    expert = 3 * D * SIZE
    assert counter.get_total_flops() == 2 * 18 * (expert + 2 * 4 * D + 2 * expert)
    cost = m.cost(2, 9)
    assert cost.flops == counter.get_total_flops()
    assert cost.params == sum(p.numel() for p in m.parameters()) == 5 * expert + 2 * 4 * D + 4
    assert cost.active_params == cost.params - 2 * expert


def test_a_partition_that_loses_or_repeats_a_neuron_is_refused(glu):
    routed = torch.arange(4, 20).unflatten(0, (4, 4))
    with pytest.raises(ValueError, match="must name each of the 20 neurons once"):
        CarvedMoE.from_glu(glu, torch.tensor([0, 1, 2, 2]), routed, routed[:, 0], 1)
    with pytest.raises(ValueError, match="must name each of the 20 neurons once"):
        CarvedMoE.from_glu(glu, torch.tensor([0, 1, 2]), routed, routed[:, 0], 1)


def test_a_glu_with_biases_is_refused():
    routed = torch.arange(4, 20).unflatten(0, (4, 4))
    with pytest.raises(ValueError, match="has biases"):
        CarvedMoE.from_glu(GLU(D, HIDDEN, bias=True), torch.arange(4), routed, routed[:, 0], 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 5}, "k=5 experts per token, but there are only n_routed=4"),
        ({"n_shared": 0}, "n_shared must be a positive integer"),
        ({"balance_speed": -1.0}, "balance_speed"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        CarvedMoE(**{"d_model": D, "d_expert": SIZE, "n_shared": 1, "n_routed": 4, "k": 1, **config})
