"""S4D: every channel passes a fixed linear filter whose memory is a few damped oscillations.

    h_t = exp(dt a) h_{t-1} + u_t         a complex (D, N / 2), one number per oscillation, dt (D,), real part of a < 0
    y_t = 2 Re(c (exp(dt a) - 1) / a . h_t) + d u_t           exact for inputs held over a step (zero-order hold)
    out_t = glu(W_o gelu(y_t))

As a convolution y has the kernel K_l = 2 Re(c (exp(dt a) - 1) / a . exp(dt a l)). Chunks of L tokens are computed by
the first L taps of it as a Toeplitz matrix, and what comes from before the chunk through the state, by products with
powers of exp(dt a): matrix products only, linear in the number of chunks.

Shapes: x (B, T, D) -> y (B, T, D) -> out (B, T, D).
State: h (B, D, N) in at least float32, real parts and then imaginary ones.

Paper: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models", arXiv 2206.11893.
The formulas, the start (a = -1/2 + i pi n, log dt uniform between 0.001 and 0.1) and the output layer were confirmed
in the authors' released code.
Differs from the paper: the convolution goes through chunks instead of one FFT, so that a state can be handed on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import from_chunks, full_precision, precise, to_chunks
from layersmith.mixer.shared.packed import PackedMixer, counted, only_real
from layersmith.mixer.shared.time_invariant import of_rows, unfinished


class S4D(PackedMixer):
    """A diagonal state space that is the same at every token.

    d_model     width of the residual stream
    d_state     N, real numbers that a channel keeps; even
    chunk       tokens computed together; changes speed, not values
    """

    name = "s4d"

    def __init__(self, d_model: int, d_state: int = 64, chunk: int = 64):
        super().__init__()
        require_positive(S4D, d_model=d_model, d_state=d_state, chunk=chunk)
        if d_state % 2:
            raise ValueError(f"S4D: d_state={d_state} must be even: an oscillation is kept in two numbers.")
        self.chunk, pairs = chunk, d_state // 2
        self.log_dt = nn.Parameter(math.log(1e-3) + (math.log(0.1) - math.log(1e-3)) * torch.rand(d_model))
        self.log_damping = nn.Parameter(torch.full((d_model, pairs), 0.5).log())
        self.frequency = nn.Parameter(math.pi * torch.arange(float(pairs)).repeat(d_model, 1))
        self.c = nn.Parameter(torch.randn(d_model, pairs, 2) * 0.5**0.5)
        self.d = nn.Parameter(torch.randn(d_model))
        self.o = nn.Linear(d_model, 2 * d_model)

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        u = only_real(precise(x), n_real)
        with full_precision(x):
            h = u.new_zeros(len(u), u.shape[2], 2 * self.log_damping.shape[1]) if state is None else state["h"]
            y, h = self._filter(u, h, counted(x, n_real))
            y = F.gelu(y + u * self.d)
        return F.glu(self.o(y.to(x.dtype)), dim=-1), {"h": h}

    def _filter(self, u: Tensor, h: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs y (B, T, D) without d, and the state behind the first n (B,) tokens; u (B, T, D), h (B, D, N)."""
        tokens = u.shape[1]
        size = max(1, min(self.chunk, tokens))
        powers, read = self._tables(size)
        back = torch.arange(size, device=u.device)[:, None] - torch.arange(size, device=u.device)
        kernel = read[..., :size].real.sum(1)  # (D, size): the taps K
        toeplitz = kernel[:, back.clamp(min=0)].tril()
        write = _as_real(powers[..., :size].flip(-1))  # (D, N, size): what of a token is left when the chunk ends
        chunks = to_chunks(u.mT.unsqueeze(-1), size).squeeze(-1)  # (B, D, chunks, size)
        added = torch.einsum("dks,bdns->nbdk", write, chunks)
        states = [h]
        for part in added:
            states.append(_times(powers[..., size], states[-1]) + part)
        held = torch.stack(states, dim=1)  # (B, chunks + 1, D, N)
        y = torch.einsum("dls,bdns->bdnl", toeplitz, chunks)
        y = y + torch.einsum("dkl,bndk->bdnl", _as_real(read[..., 1:].conj()), held[:, :-1])
        left = torch.einsum("dks,bsd->bdk", write, unfinished(u, n, size))
        last = _times(powers.movedim(-1, 0)[n % size], of_rows(held, n // size)) + left
        return from_chunks(y.unsqueeze(-1), tokens).squeeze(-1).mT, last

    def _tables(self, size: int) -> tuple[Tensor, Tensor]:
        """exp(dt a l) and 2 c (exp(dt a) - 1) / a exp(dt a l) for l = 0 .. size, each complex (D, N / 2, size + 1)."""
        a = torch.complex(-precise(self.log_damping).exp(), precise(self.frequency))
        step = a * precise(self.log_dt).exp()[:, None]
        powers = (step[..., None] * torch.arange(size + 1, device=a.device)).exp()
        c = torch.view_as_complex(precise(self.c).contiguous())
        return powers, (2 * c * (step.exp() - 1) / a)[..., None] * powers


def _as_real(z: Tensor) -> Tensor:
    """(D, N / 2, L) complex -> (D, N, L): real parts and then imaginary ones."""
    return torch.cat((z.real, z.imag), dim=1)


def _times(power: Tensor, h: Tensor) -> Tensor:
    """The complex product of power (..., D, N / 2) and h (..., D, N), which is real parts and then imaginary ones."""
    real, imaginary = h.chunk(2, dim=-1)
    rotated = (power.real * real - power.imag * imaginary, power.real * imaginary + power.imag * real)
    return torch.cat(rotated, dim=-1)
