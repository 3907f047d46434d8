"""The noise of a variational map against many draws of its weights, its KL against the exact one, and its limits."""

import math

import numpy as np
import pytest
import torch

from layersmith.contract import aux_losses
from layersmith.linear.variational import VariationalLinear, divergence


def made(d_in=6, d_out=4, **settings):
    torch.manual_seed(0)
    part = VariationalLinear(d_in, d_out, **settings).double()
    with torch.no_grad():
        part.theta.normal_()
        part.log_sigma2.uniform_(-4, 5)
    return part


@pytest.mark.oracle("variational")
def test_in_use_it_is_the_map_without_what_is_noise_by_loops():
    part = made(bias=True).eval()
    x = torch.randn(3, 6).double()
    dropped = 0
    for row, found in zip(x.tolist(), part(x).tolist(), strict=True):
        for o in range(4):
            expected = part.bias[o].item()
            for i in range(6):
                theta, sigma2 = part.theta[o, i].item(), math.exp(part.log_sigma2[o, i].item())
                kept = math.log(sigma2 / theta**2) <= 3
                dropped += not kept
                expected += theta * row[i] if kept else 0.0
            assert found[o] == pytest.approx(expected, rel=1e-10)
    assert 0 < dropped < 3 * 24


@pytest.mark.oracle("variational")
def test_training_has_the_mean_and_the_variance_of_weights_that_are_drawn():
    part = made().train()
    with torch.no_grad():
        part.theta.copy_(part.theta.sign() * (0.3 + part.theta.abs()))  # none so small that its alpha is held
        part.log_sigma2.uniform_(-4, 1)
    x = torch.randn(1, 6).double()
    seen = part(x.expand(200_000, 6)).detach()
    draws = part.theta + part.log_sigma2.div(2).exp() * torch.randn(50_000, 4, 6).double()
    drawn = (draws @ x[0]).detach()
    torch.testing.assert_close(seen.mean(0), drawn.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(seen.std(0), drawn.std(0), rtol=0.02, atol=0)


@pytest.mark.oracle("variational")
def test_kl_is_the_exact_one_to_a_hundredth():
    """-KL = log(alpha) / 2 - E log|1 + sqrt(alpha) z| + E log|z|, by the midpoints of 400,000 equal shares of z."""
    shares = (torch.arange(400_000, dtype=torch.double) + 0.5) / 400_000
    z = torch.distributions.Normal(0.0, 1.0).icdf(shares).numpy()
    constant = -(np.euler_gamma + math.log(2)) / 2
    for log_alpha in np.arange(-6.0, 8.5, 0.5):
        expected = np.log(np.abs(1 + math.exp(log_alpha / 2) * z)).mean() - log_alpha / 2 - constant
        found = divergence(torch.tensor(log_alpha)).item()
        assert found == pytest.approx(expected, abs=0.012), log_alpha


def test_kl_falls_with_noise_and_reaches_the_loss_in_training_alone():
    values = divergence(torch.linspace(-8, 8, 33))
    assert (values.diff() < 0).all()
    part = made(kl_weight=0.1)
    part.train()(torch.randn(2, 6).double())
    (loss,) = aux_losses(part).values()
    assert loss.item() == pytest.approx(0.1 * divergence(part.log_alpha()).sum().item())
    before = part.log_sigma2.detach().clone()
    loss.backward()
    assert (part.log_sigma2.grad[before.sub((part.theta**2).log()).abs() < 7] < 0).all(), "more noise costs less"


def test_without_noise_it_is_a_plain_map_in_training_too():
    part = made().train()
    with torch.no_grad():
        part.theta.copy_(part.theta.sign() * (1 + part.theta.abs()))
        part.log_sigma2.fill_(-30.0)
    x = torch.randn(50, 6).double()
    error = (part(x) - x @ part.theta.T).std() / (x @ part.theta.T).std()
    assert error < 0.01, "log alpha is held at -10, which is a noise of 0.7% of each weight"
    torch.testing.assert_close(part.eval()(x), x @ part.theta.T)


def test_training_prunes_what_the_task_does_not_need():
    """y reads 2 inputs of 12: the weights on the others end as noise, those on the two do not."""
    torch.manual_seed(0)
    part = VariationalLinear(12, 1, kl_weight=0.2)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.02)
    for step in range(1200):
        if step == 600:
            optimizer.param_groups[0]["lr"] = 0.002
        x = torch.randn(64, 12)
        loss = (part(x)[:, 0] - 2 * x[:, 0] + x[:, 5]).square().mean() + sum(aux_losses(part).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert part.mask()[0].nonzero()[:, 0].tolist() == [0, 5]


def test_a_negative_weight_of_kl_is_refused():
    with pytest.raises(ValueError, match="kl_weight must be 0 or more"):
        VariationalLinear(4, 4, kl_weight=-1.0)
