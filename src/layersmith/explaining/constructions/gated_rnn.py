"""A gated linear recurrent network that computes causal linear attention, exactly.

    h_t = lam * h_{t-1} + (W_m x~_t) * (W_x x~_t),      y_t = D [(C h_t) * (E h_t)],      x~ = (x, 1),  * elementwise

    unit (i, j)   lam = 1, reads v_i and k_j          holds sum_{s<=t} v_si k_sj
    unit j        lam = 0, reads q_j and 1            holds q_tj
    C and E give out unit (i, j) and unit j, and D adds over j:  y_ti = sum_s v_si (k_s . q_t)

with d^2 + d units where the layer has maps of d x d.

Paper: Zucchet et al. 2023, "Gated recurrent neural networks discover attention", arXiv 2309.01775.
Differs from the paper: nothing; q, k, v are the maps of the catalogue's linear attention, drawn from a seed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import dot, draw, largest
from layersmith.explaining.constructions.shared.wiring import finished, theory_attention, wire
from layersmith.mixer.linear_attention import LinearAttention


class GatedLinearRNN(nn.Module):
    """The recurrence above with n units: x (B, T, d) -> y (B, T, d)."""

    def __init__(self, d: int, units: int, read: int):
        super().__init__()
        self.decay = nn.Parameter(torch.ones(units))
        self.multiply, self.add = nn.Linear(d + 1, units, bias=False), nn.Linear(d + 1, units, bias=False)
        self.content, self.gate = nn.Linear(units, read, bias=False), nn.Linear(units, read, bias=False)
        self.out = nn.Linear(read, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1), value=1.0)
        writes = self.multiply(x) * self.add(x)
        state, states = torch.zeros_like(writes[:, 0]), []
        for t in range(x.shape[1]):
            state = self.decay * state + writes[:, t]
            states.append(state)
        held = torch.stack(states, 1)
        return self.out(self.content(held) * self.gate(held))


class GatedRNN(Construction):
    name = "gated_rnn"
    summary = "a gated linear recurrent network of d^2 + d units computes causal linear attention"
    papers = ("gated-recurrent-neural-networks-discover",)
    settings = {  # noqa: RUF012
        "d": Setting(6, 1, 48, "the width of the attention"),
        "tokens": Setting(32, 2, 4096, "the length of the sequence it is tried on"),
        "seed": Setting(0, 0, 2**31, "the seed of the attention's weights and of the sequence"),
    }

    def build(self, settings: Settings) -> nn.Module:
        d = settings["d"]
        module, layer = GatedLinearRNN(d, d * d + d, d * d).double(), attention(settings)
        memory, queries, inputs, one = slice(0, d * d), slice(d * d, d * d + d), slice(0, d), slice(d, d + 1)
        with torch.no_grad():
            module.decay[queries] = 0.0
        wire(
            module.multiply,
            (memory, inputs, layer.v.weight.repeat_interleave(d, 0)),
            (queries, inputs, layer.q.weight),
        )
        wire(module.add, (memory, inputs, layer.k.weight.repeat(d, 1)), (queries, one, torch.ones(d, 1)))
        wire(module.content, (memory, memory, 1.0))
        wire(module.gate, (memory, queries, torch.eye(d).repeat(d, 1)))
        wire(module.out, (inputs, memory, torch.eye(d).repeat_interleave(d, 1)))
        return finished(module)

    def claims(self, settings: Settings) -> list[Claim]:
        d, tokens = settings["d"], settings["tokens"]
        layer, x = attention(settings), draw(settings["seed"] + 1, 1, tokens, d)
        return [
            Claim(
                "it equals the catalogue's linear attention",
                f"largest difference, {tokens} tokens",
                lambda m: largest(m(x) - layer(x)[0]),
                most=1e-10,
            ),
            Claim(
                "it equals the sum over the past",
                f"largest difference from plain loops, {tokens} tokens",
                lambda m: largest(m(x)[0] - _summed(layer, x[0])),
                most=1e-10,
            ),
            Claim(
                "it needs units by the square of the width",
                "units over d^2",
                lambda m: m.decay.numel() / d**2,
                least=1.0,
                limit=True,
            ),
            Claim(
                "with a decay of 0.9 in place of 1 it forgets, which linear attention does not",
                "largest difference",
                lambda m: largest(_forgetful(self.build(settings))(x) - layer(x)[0]),
                least=1e-3,
                limit=True,
            ),
        ]


def attention(settings: Settings) -> LinearAttention:
    """The layer that is computed: one head, maps drawn from the seed, nothing after the head."""
    d = settings["d"]
    layer = theory_attention(d, 1, d, causal=True)
    for number, linear in enumerate((layer.q, layer.k, layer.v)):
        wire(linear, (slice(0, d), slice(0, d), draw(settings["seed"] + 10 + number, d, d) / d**0.5))
    wire(layer.o, (slice(0, d), slice(0, d), 1.0))
    return layer


def _summed(layer: LinearAttention, x: Tensor) -> Tensor:
    q, k, v = (linear(x).tolist() for linear in (layer.q, layer.k, layer.v))
    rows = []
    for t in range(len(q)):
        scores = [dot(k[s], q[t]) for s in range(t + 1)]
        rows.append([sum(score * v[s][i] for s, score in enumerate(scores)) for i in range(len(q[t]))])
    return torch.tensor(rows, dtype=torch.float64)


@torch.no_grad()
def _forgetful(module: Any) -> nn.Module:
    module.decay.mul_(0.9)
    return module
