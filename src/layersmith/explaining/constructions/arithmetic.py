"""A decoder of constant size that evaluates arithmetic by writing line after line, each with one operation less.

The text is "=", an expression modulo p, "=", and then what the decoder writes: the expression with its first handle
(two numbers that may be combined at once, or one in brackets) replaced by its value, "=", and so on until one number
is left. Token i stands at place i, and a head finds place t by the score 2 t m - m^2 = t^2 - (t - m)^2 of the key
(m, m^2).

    back1 .. back4   the four tokens before; a ReLU unit for each a op b and (a) knows its value, if neighbours let it
    line, start      the last "=" at or before the token, and before it;  previous: where the line before this one began
    handle           the first place of that line at which a unit has spoken, and what it said
    source           with k tokens written of this line and the handle at h: token k of the line before for k < h, token
                     k + 2 for k > h, and at k = h the value.  The "=" after a line of one number ends it all

Every line has two tokens less than the one before, so the text has about a quarter of the expression's length squared.

Paper: Feng et al. 2023, "Towards Revealing the Mystery behind Chain of Thought: A Theoretical Perspective", arXiv
2305.15408 (expressions over a finite field, steps that rewrite them, constant size: from its abstract and from memory;
the weights are ours).
Differs from the paper: one handle a line; heads stand one after another. That no decoder of constant depth answers at
once unless two classes of circuits are the same is a proof, not a number; linear equations and dynamic programs are not
here.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State
from layersmith.errors import UserError
from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.expressions import combined, drawn, evaluated
from layersmith.explaining.constructions.shared.wiring import Block, Stream, finished, wire
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention

#: Factor on scores, whose differences are whole numbers; and more than any place there is.
SHARP, FAR = 40.0, 1e5
_FIRST, _SECOND, _THIRD = slice(0, 1), slice(1, 2), slice(2, 3)


class Evaluator(nn.Module):
    """(prompt "=(3+4)*2=", at most so many tokens) -> what is written after it: "(0)*2=0*2=0" modulo 7.

    There has to be something to do in the prompt: an operator, or a number in brackets.
    """

    def __init__(self, modulus: int):
        super().__init__()
        self.alphabet = "0123456789"[:modulus] + "+-*/()="
        n = len(self.alphabet)
        at = self.at = Stream(
            token=n, one=1, place=1, square=1, back1=n, back2=n, back3=n, back4=n, line=1, start=1, start_square=1,
            previous=1, flag=1, value=modulus, handle=1, result=modulus, source=1, here=1, read=n, next=n, stop=1,
        )  # fmt: skip
        backs = [
            _fetch(at, [(at.place, 1.0), (at.one, -float(d))], at.token, getattr(at, f"back{d}")) for d in range(1, 5)
        ]
        equals = _token(at.token, self.alphabet, "=")
        self.back1, self.back2, self.back3, self.back4 = backs
        self.line, self.reduce = _latest(at, equals, [(at.line, at.place, 1.0)]), _reduce(at, self.alphabet, modulus)
        shift: list[Block] = [(at.start, at.place, 1.0), (at.start, at.one, -1.0), (at.start_square, at.square, 1.0)]
        shift += [(at.start_square, at.place, -2.0), (at.start_square, at.one, 1.0)]
        self.start = _latest(at, _token(at.back1, self.alphabet, "="), shift)
        self.previous = _fetch(at, [(at.line, 1.0)], at.start, at.previous)
        self.handle, self.choose = _handle(at, modulus), _choose(at)
        self.fetch = _fetch(at, [(at.source, 1.0)], at.token, at.read)
        self.write = _write(at, self.alphabet, modulus)

    def forward(self, prompt: str, most: int) -> str:
        written = ""
        x, held = self._through(self._tokens(prompt, 0), [None] * len(self._parts()))
        while float(x[0, -1, self.at.stop]) < 0.5 and len(written) < most:
            written += self.alphabet[int(x[0, -1, self.at.next].argmax())]
            x, held = self._through(self._tokens(written[-1], len(prompt) + len(written) - 1), held)
        return written

    def at_once(self, prompt: str) -> str:
        """The number it has found by the end of the prompt, before any step is written."""
        x, _ = self._through(self._tokens(prompt, 0), [None] * len(self._parts()))
        return self.alphabet[int(x[0, -1, self.at.result].argmax())]

    def _parts(self) -> list[nn.Module]:
        return list(self.children())  # in the order in which they were set

    def _through(self, x: Tensor, held: Sequence[State | None]) -> tuple[Tensor, list[State | None]]:
        """The stream of new tokens after all parts, and what each head remembers."""
        states = list(held)
        for index, part in enumerate(self._parts()):
            if isinstance(part, Mixer):
                y, states[index] = part(x, states[index])
            else:
                y = part(x)
            x = x + y
        return x, states

    def _tokens(self, text: str, place: int) -> Tensor:
        """(1, T, width): the stream of these tokens, of which the first stands at that place."""
        dtype = self.write.down.weight.dtype
        ids = torch.tensor([self.alphabet.index(letter) for letter in text])
        places = torch.arange(place, place + len(text)).to(dtype)
        x = torch.zeros(1, len(text), self.at.width, dtype=dtype)
        x[0, :, self.at.token] = F.one_hot(ids, len(self.alphabet)).to(dtype)
        x[0, :, self.at.one] = 1.0
        x[0, :, self.at.place], x[0, :, self.at.square] = places[:, None], places[:, None].square()
        return x


def _token(piece: slice, alphabet: str, letter: str) -> slice:
    """Where the piece holds the letter."""
    return slice(piece.start + alphabet.index(letter), piece.start + alphabet.index(letter) + 1)


def _fetch(at: Stream, wanted: list[tuple[slice, float]], source: slice, target: slice) -> SoftmaxAttention:
    """Brings `source` of the token whose place is the sum of what is wanted, or the nearest there is."""
    size = source.stop - source.start
    head, every = SoftmaxAttention(at.width, 1, head_dim=max(size, 2), scale=SHARP), slice(0, size)
    wire(head.q, *((_FIRST, piece, 2.0 * factor) for piece, factor in wanted), (_SECOND, at.one, -1.0))
    wire(head.k, (_FIRST, at.place, 1.0), (_SECOND, at.square, 1.0))
    wire(head.v, (every, source, 1.0))
    wire(head.o, (target, every, 1.0))
    return head


def _latest(at: Stream, kind: slice, brings: list[Block]) -> SoftmaxAttention:
    """Brings linear functions (target, piece, factor) of the last token of that kind."""
    targets = list(dict.fromkeys((target.start, target.stop) for target, _, _ in brings))
    head = SoftmaxAttention(at.width, 1, head_dim=len(targets), scale=SHARP)
    row = {target: slice(n, n + 1) for n, target in enumerate(targets)}
    wire(head.q, (_FIRST, at.one, 1.0))
    wire(head.k, (_FIRST, at.place, 1.0), (_FIRST, kind, FAR))
    wire(head.v, *((row[target.start, target.stop], piece, factor) for target, piece, factor in brings))
    wire(head.o, *((slice(*target), place, 1.0) for target, place in row.items()))
    return head


def _reduce(at: Stream, alphabet: str, modulus: int) -> MLP:
    """One unit for each handle that ends before a token: three tokens, and neighbours that leave them alone."""
    handles = [(f"({a})", a) for a in range(modulus)]
    for op in "+-*/":
        for a in range(modulus):
            handles += [(f"{a}{op}{b}", combined(a, op, b, modulus)) for b in range(modulus) if op != "/" or b]
    ffn = MLP(at.width, len(handles), act="relu")
    up: list[Block] = []
    down: list[Block] = []
    bias = {}
    for unit, (text, value) in enumerate(handles):
        row = slice(unit, unit + 1)
        up += [
            (row, _token(at_piece, alphabet, c), 1.0)
            for at_piece, c in zip((at.back3, at.back2, at.back1), text, strict=True)
        ]
        bias[unit] = -2.0
        if text[1] in "*/":
            up += [(row, _token(at.back4, alphabet, other), -1.0) for other in "*/"]
        if text[1] in "+-":
            up += [(row, _token(at.back4, alphabet, opens), 1.0) for opens in "(="]
            up += [(row, _token(at.token, alphabet, other), -1.0) for other in "*/"]
            bias[unit] = -3.0
        down += [(at.flag, row, 1.0), (slice(at.value.start + value, at.value.start + value + 1), row, 1.0)]
    wire(ffn.up, *up, bias=bias)
    wire(ffn.down, *down)
    return ffn


def _handle(at: Stream, modulus: int) -> SoftmaxAttention:
    """Brings place and value of the first handle of the line before: of its start, with a flag, as early as can be."""
    head = SoftmaxAttention(at.width, 1, head_dim=max(1 + modulus, 3), scale=SHARP)
    wire(head.q, (_FIRST, at.previous, 2.0 * FAR), (_SECOND, at.one, -FAR), (_THIRD, at.one, 1.0))
    wire(
        head.k,
        (_FIRST, at.start, 1.0),
        (_SECOND, at.start_square, 1.0),
        (_THIRD, at.flag, FAR),
        (_THIRD, at.place, -1.0),
    )
    values = slice(1, 1 + modulus)
    wire(head.v, (_FIRST, at.place, 1.0), (values, at.value, 1.0))
    wire(head.o, (at.handle, _FIRST, 1.0), (at.result, values, 1.0))
    return head


def _choose(at: Stream) -> MLP:
    """d = k - h: the value's turn is d = 0, and from d = 1 on the source lies two tokens further on."""
    ffn = MLP(at.width, 4, act="relu")
    steps, along = slice(0, 3), slice(3, 4)
    three = torch.ones(3, 1, dtype=torch.float64)
    distance = ((at.place, 1.0), (at.line, -1.0), (at.handle, -1.0), (at.previous, 1.0))
    wire(
        ffn.up,
        *((steps, piece, sign * three) for piece, sign in distance),
        *((along, piece, sign) for piece, sign in ((at.previous, 1.0), (at.place, 1.0), (at.line, -1.0))),
        bias={0: 5.0, 1: 4.0, 2: 3.0, 3: 1.0},
    )
    rows = torch.tensor([[1.0, -2.0, 1.0], [0.0, 2.0, -2.0]], dtype=torch.float64)
    wire(ffn.down, (at.here, steps, rows[:1]), (at.source, steps, rows[1:]), (at.source, along, 1.0))
    return ffn


def _write(at: Stream, alphabet: str, modulus: int) -> MLP:
    """The token that was read, or the value; and whether "=" comes after a line of one token."""
    n = len(alphabet)
    ffn = MLP(at.width, n + modulus + 1, act="relu")
    read, value, stop = slice(0, n), slice(n, n + modulus), slice(n + modulus, n + modulus + 1)
    up: list[Block] = [
        (read, at.read, 1.0),
        (read, at.here, -torch.ones(n, 1, dtype=torch.float64)),
        (value, at.result, 1.0),
        (value, at.here, torch.ones(modulus, 1, dtype=torch.float64)),
        (stop, _token(at.read, alphabet, "="), 1.0),
        (stop, _token(at.token, alphabet, "="), -2.0),
        *((stop, piece, sign) for piece, sign in ((at.here, -1.0), (at.place, -1.0), (at.line, 1.0))),
    ]
    wire(ffn.up, *up, bias={**dict.fromkeys(range(n, n + modulus), -1.0), n + modulus: 1.0})
    digits = slice(at.next.start, at.next.start + modulus)
    wire(ffn.down, (at.next, read, 1.0), (digits, value, 1.0), (at.stop, stop, 1.0))
    return ffn


class Arithmetic(Construction):
    name = "arithmetic"
    summary = "a decoder of constant size evaluates arithmetic expressions by rewriting them, one operation a line"
    papers = ("towards-revealing-mystery-behind-chain",)
    settings = {  # noqa: RUF012
        "modulus": Setting(7, 2, 7, "the prime p that numbers are taken modulo"),
        "operators": Setting(8, 2, 30, "the operators of an expression"),
        "inputs": Setting(10, 4, 1000, "how many expressions are tried"),
        "seed": Setting(0, 0, 2**31, "the seed of the expressions"),
    }

    def check(self, settings: Settings) -> None:
        if settings["modulus"] not in (2, 3, 5, 7):
            raise UserError(f"Division needs a prime: choose modulus 2, 3, 5 or 7, not {settings['modulus']}.")

    def build(self, settings: Settings) -> nn.Module:
        return finished(Evaluator(settings["modulus"]))

    def claims(self, settings: Settings) -> list[Claim]:
        p, draw = settings["modulus"], random.Random(settings["seed"])
        asked = [drawn(draw, settings["operators"], p)[:2] for _ in range(settings["inputs"])]
        others = [drawn(draw, settings["operators"], p)[:2] for _ in range(100)]
        long = [drawn(draw, 16, p)[:2] for _ in range(2)]
        return [
            Claim(
                f"it evaluates expressions of {settings['operators']} operators modulo {p}",
                f"wrong answers to {len(asked)} expressions",
                lambda m: _wrong(m, asked),
                most=0,
            ),
            Claim(
                "every line it writes has the value of the expression and two tokens less than the one before",
                "lines that do not",
                lambda m: _wrong_lines(m, asked, p),
                most=0,
            ),
            Claim(
                "before it has written anything it knows one operation, not the answer",
                "share of wrong answers at once to 100 expressions",
                lambda m: sum(m.at_once(f"={text}=") != str(value) for text, value in others) / len(others),
                least=0.25,
                limit=True,
            ),
            Claim(
                "in float32 it loses its place",
                f"lines that are wrong of {len(long)} expressions of 16 operators",
                lambda m: _wrong_lines(self.build(settings).float(), long, p),
                least=1,
                limit=True,
            ),
        ]


def _lines(module: Any, text: str) -> list[str]:
    """All lines, the expression first; a module that goes astray is stopped."""
    return [text, *module(f"={text}=", ((len(text) + 1) // 2) ** 2).split("=")]


def _wrong(module: Any, asked: list[tuple[str, int]]) -> int:
    return sum(_lines(module, text)[-1] != str(value) for text, value in asked)


def _wrong_lines(module: Any, asked: list[tuple[str, int]], p: int) -> int:
    wrong = 0
    for text, value in asked:
        lines = _lines(module, text)
        for before, line in itertools.pairwise(lines):
            try:
                wrong += evaluated(line, p) != value or len(line) != len(before) - 2
            except ValueError:
                wrong += 1
    return wrong
