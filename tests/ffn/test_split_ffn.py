"""Split feed-forward: a dense layer's neurons in groups, against loops over tokens, groups and neurons."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.contract import aux_losses
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.routing import balance_loss
from layersmith.ffn.split_ffn import SplitFFN

D, HIDDEN, SIZE = 6, 20, 4
ORDER = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(2)).unflatten(0, (5, SIZE))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def dense(kind=GLU, bias=False) -> GLU | MLP:
    torch.manual_seed(1)
    made = kind(D, HIDDEN, act="silu", bias=bias).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made


def split(layer: GLU | MLP, k: int, gate: str, n_shared: int = 0, **options) -> SplitFFN:
    torch.manual_seed(3)
    shared = ORDER[:n_shared] if n_shared else None
    part = SplitFFN.from_dense(layer, ORDER[n_shared:], k, gate, shared=shared, **options).double().eval()
    with torch.no_grad():
        for parameter in part.choice.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return part


def dot(row, token) -> float:
    return sum(a * b for a, b in zip(row, token, strict=True))


def silu(v: float) -> float:
    return v / (1 + math.exp(-v))


def activations(layer: GLU | MLP, token: list[float]) -> tuple[list[float], list[float]]:
    """What each neuron gives to the output map, and what enters its activation."""
    bias = layer.spec()["bias"]

    def pre(linear) -> list[float]:
        offsets = linear.bias.tolist() if bias else [0.0] * HIDDEN
        return [dot(row, token) + b for row, b in zip(linear.weight.tolist(), offsets, strict=True)]

    if isinstance(layer, MLP):
        return [silu(u) for u in pre(layer.up)], pre(layer.up)
    return [silu(g) * u for g, u in zip(pre(layer.gate), pre(layer.up), strict=True)], pre(layer.gate)


def scores(layer: GLU | MLP, m: SplitFFN, gate: str, groups: list[list[int]], token: list[float]) -> list[float]:
    hidden, entering = activations(layer, token)
    if gate == "keys":
        return [sum(entering[i] for i in group) / len(group) for group in groups]
    if gate == "oracle":
        return [sum(abs(hidden[i]) for i in group) for group in groups]
    if gate == "linear":
        return [dot(r, token) + b for r, b in zip(m.choice.weight.tolist(), m.choice.bias.tolist(), strict=True)]
    size = math.sqrt(dot(token, token))
    near = [math.tanh(dot(r, token) / size) for r in m.choice.weight.tolist()]
    return [dot(row, near) for row in m.choice.mix.tolist()]


def by_loops(layer: GLU | MLP, m: SplitFFN, gate: str, n_shared: int, token: list[float]) -> list[float]:
    """From the dense layer's weights and the groups; only a router's own weights come from the part."""
    hidden, _ = activations(layer, token)
    down = layer.down.weight.tolist()
    y = layer.down.bias.tolist() if layer.spec()["bias"] else [0.0] * D
    groups = ORDER[n_shared:].tolist()
    s = scores(layer, m, gate, groups, token)
    best = sorted(range(len(groups)), key=lambda e: -s[e])[: m.k]
    total = sum(math.exp(s[e]) for e in best) if m.weigh else 1.0
    counts = {e: m.scale * (m.k * math.exp(s[e]) / total if m.weigh else 1.0) for e in best}
    for group, weight in [(g, 1.0) for g in ORDER[:n_shared].tolist()] + [(groups[e], counts[e]) for e in best]:
        for i in group:
            y = [a + weight * hidden[i] * down[d][i] for d, a in enumerate(y)]
    return y


CASES = [(gate, kind, bias) for gate in ("keys", "linear", "mlp", "oracle") for kind in (GLU, MLP) for bias in (0, 1)]


@pytest.mark.oracle("split_ffn")
@pytest.mark.parametrize(("gate", "kind", "bias"), CASES)
def test_by_loops(x, gate, kind, bias):
    layer = dense(kind, bool(bias))
    for n_shared, k in ((0, 2), (2, 1)):
        m = split(layer, k, gate, n_shared, scale=1.5)
        y = m(x).reshape(-1, D)
        for row, token in enumerate(x.reshape(-1, D)):
            wanted = by_loops(layer, m, gate, n_shared, token.tolist())
            assert y[row].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-10)
            assert m(token[None]).tolist()[0] == pytest.approx(wanted, rel=1e-9, abs=1e-10), "a token alone"


@pytest.mark.oracle("split_ffn")
@pytest.mark.parametrize("gate", ["linear", "mlp"])
def test_weighed_groups_by_loops(x, gate):
    layer = dense()
    m = split(layer, 2, gate, n_shared=1, weigh=True, scale=2.0)
    for token, y in zip(x.reshape(-1, D), m(x).reshape(-1, D), strict=True):
        assert y.tolist() == pytest.approx(by_loops(layer, m, gate, 1, token.tolist()), rel=1e-9, abs=1e-10)


@pytest.mark.oracle("split_ffn")
@pytest.mark.parametrize(("gate", "kind", "bias"), CASES)
def test_all_groups_are_the_dense_layer(x, gate, kind, bias):
    layer = dense(kind, bool(bias))
    for n_shared in (0, 2):
        torch.testing.assert_close(split(layer, 5 - n_shared, gate, n_shared)(x), layer(x), rtol=1e-10, atol=1e-11)


@pytest.mark.oracle("split_ffn")
def test_all_groups_weighed_by_an_even_router_are_the_dense_layer(x):
    layer = dense()
    m = split(layer, 5, "linear", weigh=True)
    with torch.no_grad():
        m.choice.weight.zero_()
        m.choice.bias.fill_(0.3)
    torch.testing.assert_close(m(x), layer(x), rtol=1e-10, atol=1e-11)
    assert (split(layer, 2, "linear")(x) - layer(x)).abs().max() > 1e-2


def test_keys_and_oracle_add_no_parameters_and_hold_no_more_than_the_dense_layer():
    for gate in ("keys", "oracle"):
        m = split(dense(bias=True), 2, gate)
        assert not [name for name in m.state_dict() if name.startswith("choice")]
        assert sum(p.numel() for p in m.parameters()) == sum(p.numel() for p in dense(bias=True).parameters())


@pytest.mark.parametrize("change", ["in place", "loaded", "converted"])
def test_kept_mean_keys_follow_the_weights(x, change):
    m = split(dense(), 2, "keys")
    before = m.scores(x.reshape(-1, D))
    if change == "in place":
        with torch.no_grad():
            m.gate.mul_(-1)
    elif change == "loaded":
        m.load_state_dict({name: -t for name, t in m.state_dict().items()})
    else:
        m.float()
        torch.testing.assert_close(m.scores(x.reshape(-1, D).float()).double(), before, rtol=1e-4, atol=1e-5)
        return
    torch.testing.assert_close(m.scores(x.reshape(-1, D)), -before)


def test_the_straight_through_gradient_is_that_of_the_softmax_and_changes_no_value(x):
    layer = dense()
    m = split(layer, 2, "linear")
    evaluated = m(x)
    m.train()
    y = m(x)
    torch.testing.assert_close(y, evaluated)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    tokens = x.reshape(-1, D)
    score = m.scores(tokens).detach().requires_grad_()
    p = score.softmax(-1)
    hidden = m.hidden(tokens).detach()
    each = torch.einsum("neh,edh->ned", hidden, m.down.detach())  # what each group adds
    chosen = torch.zeros_like(p).scatter(1, score.topk(2).indices, 1.0)
    ((each * direction.reshape(-1, 1, D)).sum(-1) * chosen * p).sum().backward()
    torch.testing.assert_close(m.choice.weight.grad, score.grad.T @ tokens)
    assert m.choice.weight.grad.abs().max() > 1e-3


def test_the_balancing_loss_is_published_in_training_where_it_is_asked_for(x):
    m = split(dense(), 2, "linear", balance_weight=0.1)
    m(x)
    assert not aux_losses(m)
    m.train()(x)
    score = m.scores(x.reshape(-1, D))
    wanted = 0.1 * balance_loss(score.softmax(-1), score.topk(2).indices)
    torch.testing.assert_close(aux_losses(m)["balance"], wanted)
    silent = split(dense(), 2, "linear").train()
    silent(x)
    assert not aux_losses(silent)


@pytest.mark.parametrize(("gate", "router"), [("keys", 4 * D), ("linear", 4 * D), ("mlp", 4 * D + 16)])
def test_cost_is_that_of_the_chosen_groups(x, gate, router):
    m = split(dense(), 2, gate, n_shared=1)
    group = 3 * D * SIZE
    for tokens in (x, x[:1, :1]):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            m(tokens)
        count = tokens.shape[0] * tokens.shape[1]
        assert counter.get_total_flops() == m.cost(*tokens.shape[:2]).flops == 2 * count * (3 * group + router)
    assert m.cost().params - m.cost().active_params == 2 * group
    assert split(dense(), 2, "oracle").cost().active_params == 5 * group


def test_groups_that_lose_or_repeat_a_neuron_are_refused():
    repeated = ORDER.clone()
    repeated[0, 0] = repeated[1, 0]
    for groups in (repeated, ORDER[:4]):
        with pytest.raises(ValueError, match="must name each of the 20 neurons once"):
            SplitFFN.from_dense(dense(), groups, 1, "keys")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 5}, "k=5 experts per token, but there are only n_experts=4"),
        ({"n_shared": -1}, "n_shared=-1"),
        ({"gate": "key"}, "unknown gate 'key'. Did you mean 'keys'"),
        ({"gate": "oracle", "weigh": True}, "no scores to weigh by"),
        ({"balance_weight": -1.0}, "balance_weight=-1.0"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        SplitFFN(**{"d_model": D, "d_expert": SIZE, "n_experts": 4, "k": 1, **config})
