"""Legendre memory unit: one signal per layer, and a memory that holds its last theta steps as Legendre coefficients.

    u_t = relu(W_u x_t)                                     one number per token and memory
    theta dm/dt = A m + B u          A_ij = (2 i + 1) (-1 if i < j else (-1)^(i-j+1)),     B_i = (2 i + 1) (-1)^i
    m_t = Abar m_{t-1} + Bbar u_t                           the same, exact for inputs held over a step
    y_t = relu(W_h [m_t, x_t])

sum_i m_i P_i(2 r - 1) is then about u at r theta steps ago, for r from 0 to 1, P_i the Legendre polynomials. A and B
are not learned. Chunks of L tokens are computed by the first L impulse responses Abar^l Bbar as a Toeplitz matrix, and
what comes from before the chunk by powers of Abar.

Shapes: x (B, T, D) -> u (B, T, M) -> m (B, T, M, N) -> y (B, T, D).
State: m (B, M, N) in at least float32.

Papers: "LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units" (the layer; W_u to one number
with ReLU and W_h over memory and input with ReLU were confirmed in the released code, as were A and B); Voelker et al.
2019, "Legendre Memory Units". Chunks: Chilkuri & Eliasmith 2021, arXiv 2102.11417, who use one FFT.
Differs from the papers: `n_memories` signals instead of one; no spikes. The convolutional patch embedding and the
channel mixer around the layer are other parts' work.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise, to_chunks
from layersmith.mixer.shared.packed import PackedMixer, counted, only_real
from layersmith.mixer.shared.time_invariant import of_rows, unfinished


class LMU(PackedMixer):
    """A layer with Legendre memories.

    d_model     width of the residual stream
    d_memory    N, Legendre coefficients of a memory
    theta       steps that a memory reaches back
    n_memories  M, signals that are remembered
    chunk       tokens computed together; changes speed, not values
    """

    name = "lmu"

    def __init__(self, d_model: int, d_memory: int = 32, theta: float = 64.0, n_memories: int = 1, chunk: int = 64):
        super().__init__()
        require_positive(LMU, d_model=d_model, d_memory=d_memory, n_memories=n_memories, chunk=chunk)
        if not 1 <= theta < float("inf"):
            raise ValueError(f"LMU: theta must be a number of steps, at least 1, not {theta!r}.")
        self.theta, self.d_memory, self.chunk = theta, d_memory, chunk
        self.u = nn.Linear(d_model, n_memories)
        self.o = nn.Linear(n_memories * d_memory + d_model, d_model)

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        u = only_real(precise(F.relu(self.u(x))), n_real)
        with full_precision(x):
            m = u.new_zeros(*u.shape[::2], self.d_memory) if state is None else state["m"]
            memories, m = self._remember(u, m, counted(x, n_real))
        return F.relu(self.o(torch.cat((memories.flatten(2).to(x.dtype), x), dim=-1))), {"m": m}

    def _remember(self, u: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """m at every token (B, T, M, N), and behind the first n (B,); u (B, T, M), m (B, M, N) before the first."""
        tokens = u.shape[1]
        size = max(1, min(self.chunk, tokens))
        powers, responses = (t.to(u.dtype) for t in legendre_tables(self.d_memory, self.theta, size, u.device))
        back = torch.arange(size, device=u.device)[:, None] - torch.arange(size, device=u.device)
        toeplitz = responses[back.clamp(min=0)] * (back >= 0)[..., None]  # (size, size, N)
        chunks = to_chunks(u, size)  # (B, chunks, size, M)
        fresh = torch.einsum("lsk,bnsm->bnlmk", toeplitz, chunks)  # from an empty memory
        states = [m]
        for end in fresh[:, :, -1].unbind(1):
            states.append(states[-1] @ powers[size].T + end)
        held = torch.stack(states, dim=1)  # (B, chunks + 1, M, N)
        memories = fresh + torch.einsum("lij,bnmj->bnlmi", powers[1:], held[:, :-1])
        left = torch.einsum("sk,bsm->bmk", responses.flip(0), unfinished(u, n, size))
        last = of_rows(held, n // size) @ powers[n % size].mT + left
        return memories.flatten(1, 2)[:, :tokens], last


def legendre_tables(n: int, theta: float, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Abar^l for l = 0 .. size, (size + 1, n, n), and Abar^l Bbar for l < size, (size, n), in float64."""
    i = torch.arange(n, dtype=torch.float64, device=device)
    signs = torch.where(i[:, None] < i, -1.0, (-1.0) ** (i[:, None] - i + 1))
    a, b = (2 * i + 1)[:, None] * signs / theta, (2 * i + 1) * (-1.0) ** i / theta
    # The exponential of the larger matrix holds both: what a step does to the memory, and to an input held over it.
    both = torch.linalg.matrix_exp(F.pad(torch.cat((a, b[:, None]), dim=1), (0, 0, 0, 1)))
    step, powers = both[:n, :n], torch.eye(n, dtype=torch.float64, device=device)[None]
    while len(powers) <= size:
        powers = torch.cat((powers, powers @ step))
        step = step @ step
    powers = powers[: size + 1]
    return powers, powers[:-1] @ both[:n, n]
