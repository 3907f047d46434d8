"""ATLAS: a memory trained while it reads, each time on a window of recent tokens, by steps as of the Muon optimizer.

    loss_t(M) = sum_{t-window < i <= t} g_i |phi(k_i) M - v_i|^2
    S_t = theta_t S_{t-1} + grad loss_t(M*)      momentum; M* the memory before the current group of `step` tokens
    M_t = alpha_t M_{t-1} - eta_t ns(S_t)        ns(S): the orthogonal factor of S, nearly; muon=False: S itself
    y_t = W_o concat_h rmsnorm(phi(q_t) M_t)

with q and k at length 1, phi(x) = [a_1 x, a_2 x (x) x, ...] up to `degree`, a learned, and g, eta, theta, alpha
sigmoids of x_t per key-value head. The gradient, 2 sum_i g_i phi(k_i)^T (phi(k_i) M* - v_i), stands here in closed
form, so that the layer reads the same with gradients switched off. A group is computed at once, and group follows
group; step=1 evaluates every gradient at the memory just before, as the rule is written. With step=1, window=1,
theta=0, alpha=1 and muon=False it is the delta rule with beta = 2 eta g.

Shapes: x (B, T, D) -> phi(q) (B, H, T, F), phi(k) (B, H_kv, T, F), v (B, H_kv, T, head_dim) -> y (B, T, D).
State, in at least float32: memory, momentum, start (M*) (B, H_kv, F, head_dim); k, v, g (B, H_kv, window - 1, .) of the
last tokens; phase (B,) int64, tokens already read of the current group.

Paper: Behrouz et al. 2025, "ATLAS: Learning to Optimally Memorize the Context at Test Time", arXiv 2505.23735. The loss
was confirmed, the update is from memory.
Differs from the paper: a matrix as memory instead of a network of two layers; the weight g belongs to a token, whatever
the window it stands in; RMS norm per head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.heads import HeadMixer, merge_heads
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.omega import from_slots, omega_group, to_slots


class Atlas(HeadMixer):
    """A matrix memory learned at test time.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias     as in `SoftmaxAttention`
    window     tokens in the loss of a step
    step       tokens whose gradients are taken at the same memory; larger = faster, and other values
    degree     of the polynomial features, 1 to 3: head_dim + head_dim^2 + ... of them
    muon       orthogonalise the momentum before it is added (ATLAS); False: add it as it is (OmegaNet)
    eps        of the output RMS norm
    """

    name = "atlas"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int = 4,
        step: int = 16,
        degree: int = 1,
        muon: bool = True,
        bias: bool = False,
        out_bias: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__(d_model, n_heads, n_kv_heads, head_dim, bias=bias, out_bias=out_bias)
        require_positive(Atlas, window=window, step=step, degree=degree)
        if degree > 3:
            raise ValueError(f"Atlas: degree={degree} is more than 3: a head would have head_dim^{degree} features.")
        self.window, self.step, self.muon = window, step, muon
        # a_j^2 = 1 / j!: phi(q) . phi(k) starts as the series of exp(q . k) - 1
        self.coefficients = nn.Parameter(torch.tensor([math.factorial(j) ** -0.5 for j in range(1, degree + 1)]))
        self.gates = nn.Linear(d_model, 4 * self.n_kv_heads)
        with torch.no_grad():
            self.gates.bias.view(4, -1).copy_(torch.tensor([0.0, -4.0, 1.0, 4.0])[:, None])
        self.norm = nn.RMSNorm(self.head_dim, eps=eps)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        slots, ends, size = self._slots(x, mask, state)
        q, k, v = (to_slots(precise(part), slots, size) for part in self.project(x, None, None))
        g, eta, theta, alpha = precise(self.gates(x)).unflatten(-1, (4, -1, 1)).permute(2, 0, 3, 1, 4)
        rates = torch.cat((eta.sigmoid(), F.logsigmoid(theta), F.logsigmoid(alpha), torch.ones_like(eta)), -1)
        rates, g = to_slots(rates, slots, size), to_slots(g.sigmoid(), slots, size)
        with full_precision(x):
            y, new = self._groups(self._features(q), (self._features(k), v, g), rates, state, ends)
        y = self.norm(from_slots(y, slots).to(x.dtype))
        return self.o(merge_heads(y)), new

    def _slots(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, Tensor, int]:
        """The slot of every token (B, T), counted from the start of the group that is being read; how many of them
        each row has filled then (B,); and how many there are, whole groups. Padding gets a slot beyond all."""
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        phase = x.new_zeros(x.shape[0], dtype=torch.long) if state is None else state["phase"]
        begun = 0 if state is None else self.step - 1  # so many slots may be filled already
        size = math.ceil((x.shape[1] + begun) / self.step) * self.step
        slots = torch.where(real, real.long().cumsum(1) - 1 + phase[:, None], size)
        return slots, phase + real.sum(1), size

    def _groups(
        self, q: Tensor, kvg: tuple[Tensor, Tensor, Tensor], rates: Tensor, state: State | None, ends: Tensor
    ) -> tuple[Tensor, State]:
        """What every slot reads, (B, H, slots, head_dim), and the state after the last filled one."""
        before = self.window - 1
        q = q.unflatten(1, (self.n_kv_heads, -1))
        if state is None:
            k, v, _ = kvg
            memory = momentum = start = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
            recent = [F.pad(part, (0, 0, before, 0)) for part in kvg]
        else:
            memory, momentum, start = state["memory"], state["momentum"], state["start"]
            at = state["phase"][:, None] + torch.arange(before, device=q.device)  # just before the first new token
            recent = [
                F.pad(part, (0, 0, before, 0)).scatter(2, _rows(at, state[name]), state[name])
                for part, name in zip(kvg, ("k", "v", "g"), strict=True)
            ]
        starts, outputs = [], []
        for begin in range(0, q.shape[3], self.step):
            starts.append(start)
            some = slice(begin, begin + self.step)
            k, v, g = (part[:, :, begin : begin + self.step + before] for part in recent)
            parts = (q[:, :, :, some], k, v, g)
            y, memory, momentum = omega_group(parts, rates[:, :, some], memory, momentum, start, self.muon)
            outputs.append(y)
            start = memory
        starts.append(start)
        begun = torch.stack(starts, 1)[torch.arange(len(ends), device=ends.device), ends // self.step]
        at = ends[:, None] + torch.arange(before, device=q.device)
        last = {name: part.gather(2, _rows(at, part)) for name, part in zip(("k", "v", "g"), recent, strict=True)}
        new = {"memory": memory, "momentum": momentum, "start": begun, **last, "phase": ends % self.step}
        return torch.cat(outputs, 3).flatten(1, 2), new

    def _features(self, x: Tensor) -> Tensor:
        """phi of x at length 1, (..., head_dim) -> (..., head_dim + head_dim^2 + ...); 0 in empty slots."""
        x = x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
        powers = [x]
        while len(powers) < len(self.coefficients):
            powers.append((powers[-1][..., :, None] * x[..., None, :]).flatten(-2))
        return torch.cat([a * power for a, power in zip(precise(self.coefficients), powers, strict=True)], -1)


def _rows(at: Tensor, like: Tensor) -> Tensor:
    """The index (B, H, n, c) of rows `at` (B, n) in tensors (B, H, ., c)."""
    return at[:, None, :, None].expand(-1, like.shape[1], -1, like.shape[3])
