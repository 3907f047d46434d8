"""PRepBN by loops in both modes, its two ends (LayerNorm, BatchNorm plus alpha x), and the schedule between them."""

import math

import pytest
import torch

from layersmith.norm.layer_norm import LayerNorm
from layersmith.norm.prep_bn import PRepBN

D, STEPS, EPS = 5, 4, 0.1


@pytest.fixture
def x() -> torch.Tensor:
    return 3 + 2 * torch.randn(2, 6, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def randomised(steps=STEPS, step=0):
    torch.manual_seed(1)
    part = PRepBN(D, steps=steps, eps=EPS).double()
    for tensor in [*part.parameters(), part.mean]:
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(part.var, 0.5, 2)
    part.step.fill_(step)
    return part.eval()


def by_loops(part, tokens, share, mean, var):
    """lambda LN + (1 - lambda) (BN + alpha x) for a list of tokens, channel statistics given."""
    out = []
    for token in tokens:
        centre = sum(token) / D
        deviation = math.sqrt(sum((v - centre) ** 2 for v in token) / D + EPS)
        row = []
        for i, v in enumerate(token):
            rep = part.weight[i].item() * (v - mean[i]) / math.sqrt(var[i] + EPS) + part.bias[i].item()
            rep += part.alpha.item() * v
            own = 0.0
            if part.layer_norm is not None:
                own = part.layer_norm.weight[i].item() * (v - centre) / deviation + part.layer_norm.bias[i].item()
            row.append(share * own + (1 - share) * rep)
        out.append(row)
    return torch.tensor(out, dtype=torch.double)


@pytest.mark.oracle("prep_bn")
@pytest.mark.parametrize("step", [0, 1, 3, 4, 9])
def test_evaluation_by_loops(x, step):
    part = randomised(step=step)
    expected = by_loops(
        part, x.reshape(-1, D).tolist(), max(0, 1 - step / STEPS), part.mean.tolist(), part.var.tolist()
    )
    torch.testing.assert_close(part(x).reshape(-1, D), expected, rtol=1e-12, atol=1e-12)
    assert part.finished == (step >= STEPS)


@pytest.mark.oracle("prep_bn")
@pytest.mark.parametrize("steps", [0, STEPS])
def test_training_by_loops(x, steps):
    """Batch statistics over all tokens; the running ones move by a tenth, the variance there the unbiased one."""
    part, tokens = randomised(steps).train(), x.reshape(-1, D).tolist()
    old_mean, old_var = part.mean.tolist(), part.var.tolist()
    n = len(tokens)
    mean = [sum(t[i] for t in tokens) / n for i in range(D)]
    var = [sum((t[i] - mean[i]) ** 2 for t in tokens) / n for i in range(D)]
    expected = by_loops(part, tokens, 1 - 1 / STEPS if steps else 0.0, mean, var)
    torch.testing.assert_close(part(x).reshape(-1, D), expected, rtol=1e-12, atol=1e-12)
    for i in range(D):
        assert part.mean[i].item() == pytest.approx(0.9 * old_mean[i] + 0.1 * mean[i])
        assert part.var[i].item() == pytest.approx(0.9 * old_var[i] + 0.1 * var[i] * n / (n - 1))


@pytest.mark.oracle("prep_bn")
def test_new_it_is_a_layer_norm_and_without_steps_a_batch_norm_plus_x(x):
    torch.testing.assert_close(PRepBN(D, steps=3).double().eval()(x), LayerNorm(D).double()(x))
    batch = torch.nn.BatchNorm1d(D).double()
    expected = batch(x.reshape(-1, D)).view_as(x) + x
    torch.testing.assert_close(PRepBN(D).double()(x), expected)


def test_the_schedule_counts_training_passes_only_and_survives_saving(x):
    part = PRepBN(D, steps=2).double()
    part.eval()(x)
    assert int(part.step) == 0
    for finished in (False, True):
        part.train()(x)
        assert part.finished == finished
    again = PRepBN(D, steps=2).double()
    again.load_state_dict(part.state_dict())
    assert again.finished


@pytest.mark.oracle("prep_bn")
def test_as_affine_is_the_finished_norm(x):
    part = randomised(step=STEPS)
    factor, constant = part.as_affine()
    torch.testing.assert_close(part(x), factor * x + constant, rtol=1e-12, atol=1e-12)


def test_compiled_training_counts_as_well(x):
    part = PRepBN(D, steps=3).train()
    compiled = torch.compile(part, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        compiled(x.float())
    assert int(part.step) == 2


def test_a_batch_of_one_token_or_none_is_normalised_by_the_running_statistics():
    part = randomised(steps=0).train()
    token = torch.randn(1, 1, D, dtype=torch.double)
    torch.testing.assert_close(part(token), part.eval()(token))
    assert part.train()(token[:, :0]).shape == (1, 0, D)


@pytest.mark.parametrize(
    ("config", "says"), [({"steps": -1}, "steps"), ({"eps": 0.0}, "eps"), ({"momentum": 0.0}, "momentum")]
)
def test_bad_configurations_are_refused(config, says):
    with pytest.raises(ValueError, match=says):
        PRepBN(D, **config)
