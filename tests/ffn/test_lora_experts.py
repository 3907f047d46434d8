"""LoRA experts: by loops over tokens, as plain LoRA, as the feed-forward they begin as, and on two domains at odds."""

import math

import pytest
import torch

from layersmith.contract import aux_losses
from layersmith.ffn.glu import GLU
from layersmith.ffn.lora_experts import LoRAExperts
from layersmith.ffn.mlp import MLP


def times(matrix, vector):
    return [sum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix]


def moe(**config):
    torch.manual_seed(1)
    sizes = {"d_model": 6, "d_hidden": 5, "n_experts": 3, "rank": 2, "alpha": 3.0}
    m = LoRAExperts(**{**sizes, **config}).double().eval()
    with torch.no_grad():
        m.router.mul_(10)  # far from even
        for part in (m.gate, m.up, m.down):
            if part is not None:
                part.b.normal_()
    return m


def by_loops(m, token):
    scores = times(m.router.tolist(), token)
    total = sum(math.exp(s) for s in scores)
    expert = max(range(len(scores)), key=scores.__getitem__)
    share = math.exp(scores[expert]) / total

    def corrected(linear, experts, vector):
        bias = [0.0] * linear.out_features if linear.bias is None else linear.bias.tolist()
        low = times(experts.b[expert].tolist(), times(experts.a[expert].tolist(), vector))
        plain = times(linear.weight.tolist(), vector)
        return [w + b + share * m.scale * c for w, b, c in zip(plain, bias, low, strict=True)]

    hidden = corrected(m.dense.up, m.up, token)
    if m.gate is None:
        hidden = [max(0.0, h) for h in hidden]
    else:
        gate = corrected(m.dense.gate, m.gate, token)
        hidden = [h * max(0.0, g) for h, g in zip(hidden, gate, strict=True)]
    return expert, corrected(m.dense.down, m.down, hidden)


@pytest.mark.oracle("lora_experts")
@pytest.mark.parametrize(("gated", "bias"), [(True, False), (False, True)])
def test_by_loops(gated, bias):
    m, x = moe(gated=gated, bias=bias, act="relu"), torch.randn(2, 9, 6, dtype=torch.double)
    found = [by_loops(m, token) for token in x.reshape(-1, 6).tolist()]
    assert len({expert for expert, _ in found}) == 3
    want = torch.tensor([y for _, y in found], dtype=torch.double).reshape(x.shape)
    torch.testing.assert_close(m(x), want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(m(x[0, 3]), want[0, 3], rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("lora_experts")
def test_one_expert_is_plain_lora_merged_into_the_weights():
    m, x = moe(n_experts=1), torch.randn(4, 6, dtype=torch.double)
    merged = GLU(6, 5).double()
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            experts = m.get_submodule(name)
            whole = m.dense.get_submodule(name).weight + 3.0 / 2 * experts.b[0] @ experts.a[0]
            merged.get_submodule(name).weight.copy_(whole)
    torch.testing.assert_close(m(x), merged(x), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("lora_experts")
@pytest.mark.parametrize("dense", [GLU(6, 5), MLP(6, 5, act="relu")], ids=["glu", "mlp"])
def test_it_begins_as_the_feed_forward_that_was_there(dense):
    x = torch.randn(7, 6)
    m = LoRAExperts.from_dense(dense, 3, 2)
    torch.testing.assert_close(m(x), dense(x), rtol=1e-6, atol=1e-6)
    assert m.dense.up.weight is not dense.up.weight


def test_a_token_pays_for_one_expert_whatever_there_are():
    few, many = (LoRAExperts(8, 16, n, rank=2).cost(1, 64) for n in (2, 8))
    assert many.params - few.params == 6 * (3 * 2 * (8 + 16) + 8)
    assert many.active_params - few.active_params == 6 * 8, "rows of the router"
    assert many.flops - few.flops == 2 * 64 * 6 * 8


def test_the_loss_is_least_where_all_are_used_alike():
    m, x = moe(balance_weight=0.5).train(), torch.randn(64, 6, dtype=torch.double)
    m(x)
    uneven = aux_losses(m)["balance"]
    with torch.no_grad():
        m.router.zero_()
    m(x)
    assert uneven > 0.5
    assert float(aux_losses(m)["balance"].detach()) == pytest.approx(0.5)
    moe(balance_weight=0.0).train()(x)


@pytest.mark.oracle("lora_experts")
def test_two_domains_at_odds_are_parted_by_the_router_and_fitted_better_than_by_one_adapter():
    """The first input tells the domain; what is wanted has the opposite sign in the other one."""
    generator = torch.Generator().manual_seed(0)
    domain = torch.randint(0, 2, (256,), generator=generator)
    x = torch.randn(256, 8, generator=generator)
    x[:, 0] = 4.0 * domain - 2.0
    map_ = torch.randn(8, 8, generator=generator) / 3
    torch.manual_seed(0)
    dense = GLU(8, 16)
    wanted = dense(x).detach() + (1.0 - 2.0 * domain[:, None]) * x.roll(1, -1) @ map_
    lost = {}
    for count in (1, 2):
        torch.manual_seed(0)
        m = LoRAExperts.from_dense(dense, count, rank=2).train()
        m.dense.requires_grad_(False)
        optimizer = torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            loss = (m(x) - wanted).square().mean()
            (loss + sum(aux_losses(m).values())).backward()
            optimizer.step()
        lost[count] = float((m(x) - wanted).square().mean())
    chosen = (x @ m.router.T).argmax(-1)
    assert max(((chosen == domain).float().mean(), (chosen != domain).float().mean())) > 0.95
    assert lost[2] < 0.7 * lost[1]


@pytest.mark.parametrize(
    ("change", "said"), [({"rank": 6}, "above the rank of a whole map, 5"), ({"balance_weight": -1.0}, "at least 0")]
)
def test_what_cannot_be_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        moe(**change)
