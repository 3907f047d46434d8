"""Masked GLU: an oracle, complementary views, SwiGLU on a doubled input, and masks stored as bits."""

import math

import pytest
import torch

from layersmith.ffn.glu import GLU
from layersmith.ffn.mglu import MGLU, pack_bits, unpack_bits

D, HIDDEN = 6, 10


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(**config) -> MGLU:
    torch.manual_seed(1)
    return MGLU(D, HIDDEN, **config).double()


def by_loops(m: MGLU, token: list[float]) -> list[float]:
    weight, hidden = m.shared.weight.tolist(), [0.0] * HIDDEN
    for mask in (m.logits > 0).tolist():
        for j, (row, chosen) in enumerate(zip(weight, mask, strict=True)):
            gate = sum(w * v for w, v, c in zip(row, token, chosen, strict=True) if c)
            value = sum(w * v for w, v, c in zip(row, token, chosen, strict=True) if not c)
            hidden[j] += gate / (1 + math.exp(-gate)) * value
    return [sum(w * h for w, h in zip(row, hidden, strict=True)) for row in m.down.weight.tolist()]


@pytest.mark.oracle("mglu")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("n_masks", [1, 3])
def test_by_loops(x, n_masks, training):
    m = part(n_masks=n_masks).train(training)
    for token, y in zip(x.reshape(-1, D).tolist(), m(x).reshape(-1, D).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("mglu")
def test_a_mask_over_half_of_a_doubled_input_is_swiglu(x):
    m, glu = MGLU(2 * D, HIDDEN).double(), GLU(D, HIDDEN).double()
    with torch.no_grad():
        m.shared.weight.copy_(torch.cat([glu.gate.weight, glu.up.weight], dim=1))
        m.logits[..., :D], m.logits[..., D:] = 1, -1
        m.down.weight.copy_(glu.down.weight.repeat(2, 1))
    torch.testing.assert_close(m(torch.cat([x, x], -1))[..., :D], glu(x), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("mglu")
def test_packed_masks_give_the_same_outputs(x):
    m = part(n_masks=3)
    small = m.pack()
    torch.testing.assert_close(small(x), m(x), rtol=0, atol=0)
    assert small.spec()["packed"]
    assert small.masks.shape == (3, HIDDEN, 1)
    with pytest.raises(ValueError, match="packed already"):
        small.pack()


@pytest.mark.parametrize("n", [1, 8, 13])
def test_bits_round_trip(n):
    mask = torch.rand(3, 2, n, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(unpack_bits(pack_bits(mask), n).bool(), mask)


def test_the_gradient_passes_straight_through_in_training_only(x):
    m = part().train()
    m(x).square().sum().backward()
    through = m.logits.grad
    soft = (m.logits > 0).double().requires_grad_()  # the masks as if they were continuous
    gate = x @ (soft[0] * m.shared.weight).T
    y = m.down(torch.nn.functional.silu(gate) * (m.shared(x) - gate))
    (expected,) = torch.autograd.grad(y.square().sum(), soft)
    torch.testing.assert_close(through, expected)
    m.zero_grad()
    m.eval()(x).square().sum().backward()
    assert m.logits.grad is None


def test_training_moves_masks_towards_those_of_a_layer_with_the_same_matrices():
    torch.manual_seed(0)
    target, m = MGLU(8, 16), MGLU(8, 16)
    m.load_state_dict({**target.state_dict(), "logits": m.logits})
    x, wanted = torch.randn(400, 8), target.logits > 0
    before = ((m.logits > 0) == wanted).float().mean()
    optimizer = torch.optim.Adam([m.logits], lr=0.01)
    for _ in range(300):
        loss = (m(x) - target(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((m.logits > 0) == wanted).float().mean() > before + 0.1


def test_packed_is_smaller_than_the_glu_in_bytes():
    small, glu = MGLU(32, 64, n_masks=2, packed=True), GLU(32, 64)
    cost = small.cost()
    assert cost.weight_bytes == 4 * 2 * 32 * 64 + 2 * 32 * 64 // 8
    assert cost.weight_bytes / glu.cost().weight_bytes == pytest.approx((2 + 2 / 32) / 3)
    assert cost.params == 4 * 32 * 64  # two matrices and two masks
    assert cost.flops == 2 * 32 * 64 * (2 + 1 + 1)


def test_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="n_masks must be a positive integer"):
        part(n_masks=0)
