"""A head with a memory: the mixture by its definition, the heads that it comes to, and what it learns beside them."""

import math

import pytest
import torch
import torch.nn.functional as F

from layersmith.linear.mlp_memory import MLPMemory


def mixture_by_loops(m: MLPMemory, x: torch.Tensor) -> torch.Tensor:
    def probabilities(state: list[float]) -> list[float]:
        logits = [sum(w * e for w, e in zip(row, state, strict=True)) for row in m.weight.tolist()]
        powers = [math.exp(logit) for logit in logits]
        return [power / sum(powers) for power in powers]

    rows = []
    for token in x.tolist():
        h = list(token)
        for norm, up, down in zip(m.norms, m.ups, m.downs, strict=True):
            size = math.sqrt(sum(e * e for e in h) / len(h) + norm.eps)
            read = [g * e / size for g, e in zip(norm.weight.tolist(), h, strict=True)]
            inner = [
                sum(w * e for w, e in zip(row, read, strict=True)) + b
                for row, b in zip(up.weight.tolist(), up.bias.tolist(), strict=True)
            ]
            inner = [e * (1 + math.erf(e / math.sqrt(2))) / 2 for e in inner]
            written = [
                sum(w * e for w, e in zip(row, inner, strict=True)) + b
                for row, b in zip(down.weight.tolist(), down.bias.tolist(), strict=True)
            ]
            h = [a + b for a, b in zip(h, written, strict=True)]
        pairs = zip(probabilities(token), probabilities(h), strict=True)
        rows.append([math.log((1 - m.share) * own + m.share * memory) for own, memory in pairs])
    return torch.tensor(rows, dtype=x.dtype)


def part(share: float) -> MLPMemory:
    torch.manual_seed(0)
    m = MLPMemory(5, 7, d_hidden=6, share=share).double()
    with torch.no_grad():
        for parameter in m.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return m


@pytest.mark.oracle("mlp_memory")
@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_equals_loops(share):
    m, x = part(share), torch.randn(4, 5, dtype=torch.float64)
    y = m(x)
    torch.testing.assert_close(y, mixture_by_loops(m, x), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.exp().sum(-1), torch.ones(4, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.oracle("mlp_memory")
@torch.no_grad()
def test_without_a_share_and_at_the_start_it_predicts_as_the_plain_head():
    x = torch.randn(4, 5, dtype=torch.float64)
    m = part(0.0)
    torch.testing.assert_close(m(x), F.linear(x, m.weight).log_softmax(-1), atol=1e-12, rtol=0)
    fresh = MLPMemory(5, 7, d_hidden=6, share=0.6).double()
    torch.testing.assert_close(fresh(x), F.linear(x, fresh.weight).log_softmax(-1), atol=1e-12, rtol=0)


def test_it_learns_what_follows_a_state_while_the_head_stays():
    torch.manual_seed(0)
    m, x, target = MLPMemory(8, 12, d_hidden=32, share=0.9), torch.randn(20, 8), torch.randint(12, (20,))
    head = m.weight.detach().clone()
    m.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=0.02)
    before = F.nll_loss(m(x), target).item()
    for _ in range(150):
        optimizer.zero_grad()
        F.nll_loss(m(x), target).backward()
        optimizer.step()
    assert F.nll_loss(m(x), target).item() < before / 2
    assert torch.equal(m.weight, head)


def test_bad_shares_are_refused():
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match="share"):
            MLPMemory(5, 7, 6, share=share)
