"""Linear algebra: matrices written as tokens, number by number, and what is made of them.

    1.23 -4.5 | 0.07 8.9 = 1.23 0.07 | -4.5 8.9        transpose, row by row

    transpose, add, apply (a matrix to a vector), product, inverse      of matrices with entries from -10 to 10
    eigenvalues                                                         of symmetric ones, the largest first

Numbers have three digits, m 10^e with m = 0 or 100 <= |m| <= 999 and -8 <= e <= 7, and are written

    p10     sign, three digits, exponent             p1000   sign, |m|, exponent
    b1999   m with its sign, exponent                fp15    all of it in one token

An answer is right where the sum of its errors is at most `tolerance` of the sum of its entries, both without signs,
given the right tokens before each. Operands are rounded before the answer is computed, so that its three digits are
known.

`spectrum` is of eigenvalues' matrices: "wigner" has entries drawn alike, "laplace" eigenvalues so distributed, of the
same variance, and directions that are uniform.

Paper: "Linear algebra with transformers" (problems, the four encodings and the tolerance; sizes of exponents from
memory).
Differs from the paper: 16 exponents in all encodings; sizes are fixed, so that the question does not tell them; a whole
answer is judged token by token instead of written in one go; train and test have the same spectrum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, one_of, whole
from layersmith.racing.tasks.shared.drawing import judged
from layersmith.racing.tasks.shared.linear_map import linear_map

PROBLEMS = ("add", "apply", "eigenvalues", "inverse", "product", "transpose")
ENCODINGS = ("b1999", "fp15", "p10", "p1000")
SPECTRA = ("laplace", "wigner")
#: Exponents there are, and the largest mantissa.
LOW, HIGH, LARGEST = -8, 7, 999
EXPONENTS = HIGH - LOW + 1
FITTED, PENALTY = 4096, 1e-6


class LinearAlgebra(Task):
    """
    problem    add, apply, eigenvalues, inverse, product or transpose
    size       rows and columns of a matrix
    encoding   p10, p1000, b1999 or fp15
    tolerance  the share of its size by which an answer may be off
    spectrum   wigner or laplace, of eigenvalues alone
    """

    name = "linear_algebra"
    summary = "Add, multiply, invert and diagonalise small matrices whose numbers are tokens."
    papers = ("linear-algebra-transformers",)
    metric = "share of whole answers"

    def __init__(
        self,
        problem: str = "transpose",
        size: int = 3,
        encoding: str = "p1000",
        tolerance: float = 0.05,
        spectrum: str = "wigner",
    ):
        self.problem, self.encoding = one_of("problem", problem, PROBLEMS), one_of("encoding", encoding, ENCODINGS)
        self.size, self.tolerance = whole("size", size, 1, 10), number("tolerance", tolerance, 0.001, 0.5)
        self.spectrum = one_of("spectrum", spectrum, SPECTRA)
        if spectrum == "laplace" and problem != "eigenvalues":
            raise ValueError(f"spectrum='laplace' is for eigenvalues, not for {problem}: leave it at 'wigner'.")
        self.equals = _vocabulary(encoding)
        self.n_inputs = self.n_outputs = self.equals + 1
        second = {"add": size**2, "product": size**2, "apply": size}.get(problem, 0)
        self.asked = size if problem in ("apply", "eigenvalues") else size**2
        self.tokens = (size**2 + second + self.asked) * _width(encoding)

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        question, answer = self.drawn(generator, size)
        known = torch.cat([encoded(question, self.encoding), torch.full((size, 1), self.equals)], 1)
        row = torch.cat([known, encoded(answer, self.encoding)], 1)
        targets = row[:, 1:].clone()
        targets[:, : known.shape[1] - 1] = IGNORED
        return Batch(row[:, :-1].contiguous(), targets)

    def drawn(self, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Questions and answers as numbers, both float64: (B, all entries of the operands), (B, entries)."""
        n = self.size
        a = rounded(20 * torch.rand(size, n, n, generator=generator, device="cpu", dtype=torch.float64) - 10)
        if self.problem == "transpose":
            return a.flatten(1), a.mT.flatten(1)
        if self.problem == "inverse":
            return a.flatten(1), torch.linalg.inv_ex(a)[0].nan_to_num().flatten(1)
        if self.problem == "eigenvalues":
            a = rounded(self._symmetric(a, generator))
            return a.flatten(1), torch.linalg.eigvalsh(a).flip(1)
        wide = 1 if self.problem == "apply" else n
        b = rounded(20 * torch.rand(size, n, wide, generator=generator, device="cpu", dtype=torch.float64) - 10)
        answer = a + b if self.problem == "add" else a @ b
        return torch.cat([a.flatten(1), b.flatten(1)], 1), answer.flatten(1)

    def yardsticks(self) -> dict[str, float]:
        """random: any tokens, of which hardly any are right; linear: least squares from the numbers of the question."""
        generator = torch.Generator().manual_seed(0)
        xs, ys = self.drawn(generator, FITTED)
        weights = linear_map(xs, ys, PENALTY)
        tokens = judged(self)
        length = self.asked * _width(self.encoding)
        question = decoded(tokens.inputs[:, : self.tokens - length], self.encoding)
        wanted = decoded(tokens.targets[:, -length:], self.encoding)
        return {"random": 0.0, "linear": float(self._right(question @ weights, wanted).double().mean()), "oracle": 1.0}

    def score(self, outputs: Tensor, batch: Batch) -> float:
        """Share of answers that are right within the tolerance. A token that cannot stand where it does is wrong."""
        length = self.asked * _width(self.encoding)
        said, wanted = outputs.argmax(-1)[:, -length:], batch.targets[:, -length:]
        guess = decoded(said, self.encoding)
        return float(self._right(guess, decoded(wanted, self.encoding)).double().mean())

    def _right(self, guess: Tensor, wanted: Tensor) -> Tensor:
        """(B,), False where the guess is not a number."""
        return (guess - wanted).abs().sum(1) <= self.tolerance * wanted.abs().sum(1)

    def _symmetric(self, a: Tensor, generator: torch.Generator) -> Tensor:
        if self.spectrum == "wigner":
            return a.tril() + a.tril(-1).mT
        # Entries from -10 to 10 have the variance 100 / 3, so that eigenvalues of n of them have n times that.
        deviation = (100 / 3 * self.size) ** 0.5
        u = torch.rand(a.shape[:2], generator=generator, device="cpu", dtype=torch.float64) - 0.5
        values = -(deviation / 2**0.5) * u.sign() * (1 - 2 * u.abs()).clamp_min(1e-12).log()
        q, r = torch.linalg.qr(torch.randn(a.shape, generator=generator, device="cpu", dtype=torch.float64))
        q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
        found = (q * values[:, None]) @ q.mT
        return (found + found.mT) / 2


def parts(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissas and exponents, int64: values = m 10^e, rounded to three digits; beyond the exponents, the nearest."""
    size = values.abs().clamp_min(1e-300)
    e = size.log10().floor().long() - 2
    m = (size / 10.0 ** e.double()).round().long()
    e, m = torch.where(m > LARGEST, e + 1, e), torch.where(m > LARGEST, 100, m)
    m = torch.where(e > HIGH, LARGEST, m)
    nothing = e < LOW
    e = torch.where(nothing, 0, e.clamp_max(HIGH))
    return torch.where(nothing, 0, m) * values.sign().long(), e


def rounded(values: Tensor) -> Tensor:
    """The nearest numbers that can be written."""
    m, e = parts(values)
    return valued(m, e)


def valued(m: Tensor, e: Tensor) -> Tensor:
    """m 10^e, as near as float64 comes: whole numbers are divided, for 10^-2 is no binary number."""
    m, up = m.double(), 10.0 ** e.abs().double()
    return torch.where(e < 0, m / up, m * up)


def encoded(values: Tensor, encoding: str) -> Tensor:
    """Numbers (B, n) as tokens (B, n times the width of the encoding)."""
    m, e = parts(values)
    size, sign, e = m.abs(), (m < 0).long(), e - LOW
    if encoding == "fp15":
        return (m + LARGEST) * EXPONENTS + e
    if encoding == "b1999":
        tokens = [m + LARGEST, 2 * LARGEST + 1 + e]
    elif encoding == "p1000":
        tokens = [sign, 2 + size, 2 + LARGEST + 1 + e]
    else:
        tokens = [sign, 2 + size // 100, 2 + size // 10 % 10, 2 + size % 10, 12 + e]
    return torch.stack(tokens, -1).flatten(1)


def decoded(tokens: Tensor, encoding: str) -> Tensor:
    """Numbers (B, n) float64 of tokens; NaN where one of a number's tokens cannot stand there."""
    at = tokens.unflatten(1, (-1, _width(encoding))).unbind(-1)
    if encoding == "fp15":
        m, e, fits = at[0] // EXPONENTS - LARGEST, at[0] % EXPONENTS, at[0] < _vocabulary(encoding)
    elif encoding == "b1999":
        m, e = at[0] - LARGEST, at[1] - 2 * LARGEST - 1
        fits = m <= LARGEST
    elif encoding == "p1000":
        size, e = at[1] - 2, at[2] - LARGEST - 3
        m, fits = torch.where(at[0] == 1, -size, size), (at[0] < 2) & (size >= 0) & (size <= LARGEST)
    else:
        digits, e = [one - 2 for one in at[1:4]], at[4] - 12
        size = 100 * digits[0] + 10 * digits[1] + digits[2]
        m, fits = torch.where(at[0] == 1, -size, size), at[0] < 2
        for digit in digits:
            fits = fits & (digit >= 0) & (digit <= 9)
    fits = fits & (e >= 0) & (e < EXPONENTS)
    return torch.where(fits, valued(m, e.clamp(0, EXPONENTS - 1) + LOW), torch.nan)


def _width(encoding: str) -> int:
    """Tokens of a number."""
    return {"p10": 5, "p1000": 3, "b1999": 2, "fp15": 1}[encoding]


def _vocabulary(encoding: str) -> int:
    """Tokens that numbers are written with; the next one is the sign of equality."""
    mantissas = {"p10": 12, "p1000": 2 + LARGEST + 1, "b1999": 2 * LARGEST + 1}
    if encoding == "fp15":
        return (2 * LARGEST + 1) * EXPONENTS
    return mantissas[encoding] + EXPONENTS
