"""CRMSNorm by loops, as the first channels of LayerNorm and RMSNorm of the whole token, and in a narrower stream."""

import math

import pytest
import torch

from layersmith.norm.crms_norm import CRMSNorm
from layersmith.norm.layer_norm import LayerNorm
from layersmith.norm.rms_norm import RMSNorm

D = 7


@pytest.fixture
def x() -> torch.Tensor:
    return 3 + 2 * torch.randn(2, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


@pytest.mark.oracle("crms_norm")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_by_loops(x, bias, eps):
    torch.manual_seed(1)
    part = CRMSNorm(D, eps=eps, bias=bias).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    w, b = part.weight.tolist(), part.bias.tolist() if bias else [0.0] * D
    for token, y in zip(x.reshape(-1, D).tolist(), part(x).reshape(-1, D).tolist(), strict=True):
        whole = [*token, -sum(token)]
        size = math.sqrt(sum(v * v for v in whole) / len(whole) + eps)
        assert y == pytest.approx([w[i] * token[i] / size + b[i] for i in range(D)], rel=1e-10)


@pytest.mark.oracle("crms_norm")
@pytest.mark.parametrize("other", [LayerNorm, RMSNorm])
def test_is_the_norm_of_the_whole_token_without_its_last_channel(x, other):
    whole = torch.cat((x, -x.sum(-1, keepdim=True)), -1)
    expected = other(D + 1, eps=0.1).double()(whole)[..., :D]
    torch.testing.assert_close(CRMSNorm(D, eps=0.1).double()(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("crms_norm")
def test_a_pre_ln_stack_and_its_narrower_twin_give_equal_outputs():
    """x + W_2 relu(W_1 LN(x)), three times and a head: with every writer centred and cut, and every reader folded."""
    torch.manual_seed(0)
    d, hidden, eps = D + 1, 11, 0.1
    x = torch.randn(4, d, dtype=torch.double) + 1
    readers = [torch.randn(hidden, d, dtype=torch.double) for _ in range(4)]
    writers = [torch.randn(d, hidden, dtype=torch.double) for _ in range(3)]

    def cut(rows):  # of a writer or of the input: take the mean over the channels away, then drop the last channel
        return (rows - rows.mean(0))[:-1]

    narrow, wide = cut(x.T).T, x
    norm, crms = LayerNorm(d, eps=eps).double(), CRMSNorm(d - 1, eps=eps).double()
    for read, write in zip(readers, writers, strict=False):
        wide = wide + torch.relu(norm(wide) @ read.T) @ write.T
        narrow = narrow + torch.relu(crms(narrow) @ (read[:, :-1] - read[:, -1:]).T) @ cut(write).T
    head = readers[-1]
    expected, found = norm(wide) @ head.T, crms(narrow) @ (head[:, :-1] - head[:, -1:]).T
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_bad_eps_is_refused():
    with pytest.raises(ValueError, match="eps must be at least 0"):
        CRMSNorm(D, eps=-1.0)
