"""The filters over neighbours (DFSMN, gated FSMN) and learned delays against float64 loops and their limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from layersmith.mixer.dfsmn import DFSMN
from layersmith.mixer.gated_fsmn import GatedFSMN
from layersmith.mixer.learned_delays import LearnedDelays
from tests.mixer.by_steps import causal_filter, silu, taps


def at(rows, t):
    return rows[t] if 0 <= t < len(rows) else [0.0] * len(rows[0])


@pytest.mark.oracle("dfsmn")
@torch.no_grad()
@pytest.mark.parametrize(("ahead", "stride", "stride_ahead"), [(0, 1, 1), (0, 2, 1), (2, 1, 3), (1, 3, 1)])
def test_dfsmn_equals_loops(ahead, stride, stride_ahead):
    torch.manual_seed(0)
    m = DFSMN(5, 7, behind=3, ahead=ahead, stride=stride, stride_ahead=stride_ahead).double()
    x = torch.randn(11, 5, dtype=torch.float64)
    p = m.down(F.relu(m.up(x))).tolist()
    a = m.taps_behind.weight[:, 0].flip(-1).tolist()
    c = m.taps_ahead.weight[:, 0].tolist() if ahead else []
    want = []
    for t in range(len(p)):
        row = []
        for d in range(5):
            back = sum(a[d][i] * at(p, t - i * stride)[d] for i in range(4))
            forth = sum(c[d][j - 1] * at(p, t + j * stride_ahead)[d] for j in range(1, ahead + 1))
            row.append(p[t][d] + back + forth)
        want.append(row)
    torch.testing.assert_close(m(x[None])[0][0], torch.tensor(want, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.oracle("dfsmn")
@torch.no_grad()
def test_dfsmn_equals_torch_convolution_of_both_sides():
    """With equal strides all taps are one dilated convolution, centred on the token."""
    torch.manual_seed(0)
    m = DFSMN(5, 7, behind=2, ahead=2, stride=2, stride_ahead=2).double()
    x = torch.randn(2, 15, 5, dtype=torch.float64)
    p = m.down(F.relu(m.up(x))).mT
    kernel = torch.cat((m.taps_behind.weight, m.taps_ahead.weight), -1)
    want = p + F.conv1d(p, kernel, padding=4, dilation=2, groups=5)
    torch.testing.assert_close(m(x)[0], want.mT, atol=1e-12, rtol=0)


@torch.no_grad()
def test_taps_ahead_are_not_causal_and_see_no_padding():
    torch.manual_seed(0)
    m = DFSMN(5, 7, behind=2, ahead=3).double()
    assert not m.causal
    assert m.state_bytes(5) == 0
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0], [0] * 6]).bool()
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    y, state = m(x, mask=mask)
    assert state is None
    for row in range(2):
        torch.testing.assert_close(y[row, mask[row]], m(x[row : row + 1, mask[row]])[0][0], atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="cannot continue from a state"):
        m(x, state={})
    with pytest.raises(ValueError, match="behind must be a number of taps"):
        DFSMN(5, 7, behind=-1)


@pytest.mark.oracle("gated_fsmn")
@torch.no_grad()
def test_gated_fsmn_equals_loops():
    torch.manual_seed(0)
    m = GatedFSMN(4, 6, taps=3, depth=3, unit=3).double()
    for slope in m.slopes:
        slope.weight.uniform_(0.1, 0.9)
    x = torch.randn(12, 4, dtype=torch.float64)
    units = [[silu(e) for e in row] for row in m.units(m.norm(x)).tolist()]
    filtered = causal_filter(units, *taps(m.units_conv))
    both = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(units, filtered, strict=True)]
    u, v = torch.tensor(both, dtype=torch.float64).chunk(2, dim=-1)
    outs = [m.down(F.relu(m.up(u))).tolist()]
    for i, conv in enumerate(m.memories):
        weight = conv.weight.tolist()  # (D, i + 1, taps): channel, which output before, the latest first
        rows = []
        for t in range(12):
            row = []
            for d in range(4):
                total = 0.0
                for which in range(i + 1):
                    for back in range(3):
                        total += weight[d][which][2 - back] * at(outs[i - which], t - back * 2**i)[d]
                row.append(total if total > 0 else total * float(m.slopes[i].weight[d]))
            rows.append(row)
        outs.append(rows)
    want = v * (u + torch.tensor(outs[-1], dtype=torch.float64))
    torch.testing.assert_close(m(x[None])[0][0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("gated_fsmn")
@torch.no_grad()
def test_gated_fsmn_reaches_as_far_back_as_its_filters_add_up_to():
    torch.manual_seed(0)
    m = GatedFSMN(4, 6, taps=3, depth=3, unit=1).double()
    x = torch.randn(1, 40, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 10] = torch.randn(4)
    moved = (m(x)[0] - m(changed)[0]).abs().amax(-1)[0]
    reach = (2**3 - 1) * (3 - 1)  # 1 + this many tokens
    assert moved[:10].max() == 0
    assert moved[10 + reach] > 0
    assert moved[11 + reach :].max() == 0


@pytest.mark.oracle("learned_delays")
@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.5, 3.0, 0.0])
def test_learned_delays_equal_loops(sigma):
    torch.manual_seed(0)
    m = LearnedDelays(4, delays=6, sigma=sigma).double()
    m.delay[0, 0], m.delay[1, 1] = -2.0, 9.0  # rounded, they are held within 0 and 5
    x = torch.randn(13, 4, dtype=torch.float64)
    rows, signal = [], x.tolist()
    for t in range(13):
        row = []
        for j in range(4):
            total = 0.0
            for i in range(4):
                p = float(m.delay[j, i])
                if sigma:
                    tap = [math.exp(-((n - p) ** 2) / (2 * sigma**2)) for n in range(6)]
                else:
                    tap = [float(n == min(max(round(p), 0), 5)) for n in range(6)]
                total += sum(float(m.weight[j, i]) * g / sum(tap) * at(signal, t - n)[i] for n, g in enumerate(tap))
            row.append(total)
        rows.append(row)
    torch.testing.assert_close(m(x[None])[0][0], torch.tensor(rows, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.oracle("learned_delays")
def test_planted_delays_are_found():
    """The target is a sum of delayed channels: trained with a smear that narrows, delays become the planted ones."""
    torch.manual_seed(0)
    planted, weight = torch.tensor([[1.0, 5.0], [3.0, 7.0]]), torch.tensor([[1.0, -0.7], [0.8, 1.2]])
    teacher, m = LearnedDelays(2, delays=9, sigma=0.0), LearnedDelays(2, delays=9, sigma=2.0)
    with torch.no_grad():
        for part in (teacher, m):
            part.weight.copy_(weight)
        teacher.delay.copy_(planted)
        m.delay.fill_(4.0)
    optimizer = torch.optim.Adam([m.delay], lr=0.1)
    for step in range(150):
        m.sigma = 2.0 * 0.25 ** (step / 149)
        x = torch.randn(4, 60, 2)
        loss = (m(x)[0] - teacher(x)[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (m.delay - planted).abs().max() < 0.5


def test_bad_smears_are_refused():
    with pytest.raises(ValueError, match="sigma must be a number of steps"):
        LearnedDelays(4, sigma=-1.0)
