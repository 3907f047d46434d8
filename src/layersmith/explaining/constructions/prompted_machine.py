"""One decoder for all programs: a Turing machine's table stands in the prompt, and the decoder writes down its steps.

The prompt is BOS, one token for each rule (state, symbol -> symbol', move, state'), and the tape, written by steps that
move to the right and come back. A step is a token (move before, symbol written, move, state). With the same three heads
for every table:

    count   looks at all tokens alike: with T of them, P / T for the place P of the head, p / T for the place that the
            token wrote to, 1 / T. LN(P, 1, -P, -1) is a direction that depends on P alone (the layer-norm hash)
    read    finds the last token that wrote to P: the score falls with the angle between the hashes of P and p, and, far
            less, with 1 / T of the token. BOS lies in between: the blank of a place that nobody wrote to
    obey    finds the rule of this state and symbol, and brings back what to do next

A universal machine has a table of its own, so that a decoder with room for its states runs any program.

Paper: "Ask, and it shall be given: Turing completeness of prompting" (one transformer for all programs, tape cells
found by normalised sums of moves and the latest write; confirmed in the released code).
Differs from the paper: one tape and a table of at most as many states as there is room for, where programs there are
lists of instructions of any length for two tapes; softmax with large scores; weights are ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.norm.layer_norm import LayerNorm

STATES, HALT, BLANK, SYMBOLS = 4, 3, 2, 3
MOVES = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
#: Of scores: of an angle, of being late, how far BOS lies below a match, and what bars all others.
SHARP, LATE, MARGIN, BARRED = 1e14, 1e7, 1e8, 1e16
#: (state, symbol) -> (symbol, move, state)
Table = dict[tuple[int, int], tuple[int, int, int]]
Step = tuple[int, int, int]

PARITY: Table = {(s, a): (a, 1, s ^ a) for s in (0, 1) for a in (0, 1)} | {(s, BLANK): (s, 0, HALT) for s in (0, 1)}
#: Right to the end, then left, carrying.
INCREMENT: Table = {
    **{(0, a): (a, 1, 0) for a in (0, 1)},
    **{(0, BLANK): (BLANK, -1, 1), (1, 1): (0, -1, 1), (1, 0): (1, 0, HALT), (1, BLANK): (1, 0, HALT)},
}
#: Every bit is flipped on the way there, and again on the way back.
FLIP: Table = {(s, a): (1 - a, 1 - 2 * s, s) for s in (0, 1) for a in (0, 1)} | {
    (0, BLANK): (BLANK, -1, 1),
    (1, BLANK): (BLANK, 0, HALT),
}
PROGRAMS = {"parity": PARITY, "increment": INCREMENT, "flip": FLIP}


class Machine(nn.Module):
    """A table and bits -> the steps (symbol, move, state) until the machine halts, or so many."""

    def __init__(self, late: float = LATE):
        super().__init__()
        self.at = Stream(
            one=1, bos=1, rule=1, wrote=1, of_state=STATES, of_symbol=SYMBOLS, to_symbol=SYMBOLS, to_move=3,
            to_state=STATES, before=3, symbol=SYMBOLS, move=3, state=STATES, here=1, there=1, unit=1, hash_here=4,
            hash_there=4, read=SYMBOLS, next_symbol=SYMBOLS, next_move=3, next_state=STATES,
        )  # fmt: skip
        self.count, self.norm = _count(self.at), LayerNorm(4, eps=0.0)
        self.read, self.obey = _read(self.at, late), _obey(self.at)

    def forward(self, table: Table, bits: list[int], most: int) -> list[Step]:
        x = self._prompt(table, bits)
        steps: list[Step] = []
        while len(steps) < most and (not steps or steps[-1][2] != HALT):
            y = self._last(x)
            at = self.at
            symbol, move, state = (int(y[part].argmax()) for part in (at.next_symbol, at.next_move, at.next_state))
            steps.append((symbol, move - 1, state))
            before = int(x[0, -1, at.move].argmax()) - 1
            x = torch.cat((x, self._token(before=before, symbol=symbol, move=move - 1, state=state)), 1)
        return steps

    def _last(self, x: Tensor) -> Tensor:
        """The stream of the last token, through the three heads."""
        at = self.at
        x = x + self.count(x)[0]
        for place, hashed in ((at.here, at.hash_here), (at.there, at.hash_there)):
            x[..., hashed] = self.norm(
                torch.cat((x[..., place], x[..., at.unit], -x[..., place], -x[..., at.unit]), -1)
            )
        x = x + self.read(x)[0]
        return (x + self.obey(x)[0])[0, -1]

    def _prompt(self, table: Table, bits: list[int]) -> Tensor:
        tokens = [self._token(bos=0)]
        for (state, symbol), (written, move, after) in table.items():
            told = {
                "of_state": state,
                "of_symbol": symbol,
                "to_symbol": written,
                "to_move": move + 1,
                "to_state": after,
            }
            tokens.append(self._token(rule=0, **told))
        moves = [1] * len(bits) + [-1] * len(bits)
        for n, move in enumerate(moves):
            before = moves[n - 1] if n else 0
            bit = bits[n] if n < len(bits) else None
            tokens.append(self._token(before=before, symbol=bit, move=move, state=0))
        return torch.cat(tokens, 1)

    def _token(self, before: int = 0, move: int = 0, symbol: int | None = None, **ones: int) -> Tensor:
        """(1, 1, width): 1 at a place of each piece that is named. Steps have a state; what has none does not move."""
        x = torch.zeros(1, 1, self.at.width, dtype=self.norm.weight.dtype)
        if "state" in ones:
            ones |= {"before": before + 1, "move": move + 1}
        if symbol is not None:
            ones |= {"symbol": symbol, "wrote": 0}
        for name, place in {"one": 0, **ones}.items():
            x[..., getattr(self.at, name).start + place] = 1.0
        return x


def _count(at: Stream) -> SoftmaxAttention:
    head = SoftmaxAttention(at.width, 1, head_dim=3)
    one, two, three = (slice(n, n + 1) for n in range(3))
    wire(head.q)
    wire(head.k)
    wire(head.v, (one, at.move, MOVES), (two, at.before, MOVES), (three, at.bos, 1.0))
    wire(head.o, (at.here, one, 1.0), (at.there, two, 1.0), (at.unit, three, 1.0))
    return head


def _read(at: Stream, late: float) -> SoftmaxAttention:
    head = SoftmaxAttention(at.width, 1, head_dim=6, scale=1.0)
    hashed, recent, bar, symbols = slice(0, 4), slice(4, 5), slice(5, 6), slice(0, SYMBOLS)
    wire(head.q, (hashed, at.hash_here, SHARP), (recent, at.one, late), (bar, at.one, 1.0))
    # BOS is at no place, and scores as much less than a match (4 SHARP) as the margin says.
    nowhere = torch.tensor([[0.0], [1.0], [0.0], [-1.0]], dtype=torch.float64) * -(2.0**0.5)
    # Of every token, of BOS, of rules, of tokens that wrote.
    barred = torch.tensor([[-BARRED, BARRED + 4 * SHARP - MARGIN, 0.0, BARRED]], dtype=torch.float64)
    wire(
        head.k,
        (hashed, at.hash_there, 1.0),
        (hashed, at.bos, nowhere),
        (recent, at.unit, -1.0),
        (bar, slice(at.one.start, at.wrote.stop), barred),
    )
    blank = torch.zeros(SYMBOLS, 1, dtype=torch.float64)
    blank[BLANK] = 1.0
    wire(head.v, (symbols, at.symbol, 1.0), (symbols, at.bos, blank))
    wire(head.o, (at.read, symbols, 1.0))
    return head


def _obey(at: Stream) -> SoftmaxAttention:
    head = SoftmaxAttention(at.width, 1, head_dim=SYMBOLS + 3 + STATES, scale=100.0)
    states, symbols, bar = (
        slice(0, STATES),
        slice(STATES, STATES + SYMBOLS),
        slice(STATES + SYMBOLS, STATES + SYMBOLS + 1),
    )
    wire(head.q, (states, at.state, 1.0), (symbols, at.read, 1.0), (bar, at.one, 1.0))
    wire(head.k, (states, at.of_state, 1.0), (symbols, at.of_symbol, 1.0), (bar, at.one, -9.0), (bar, at.rule, 9.0))
    written, move, state = slice(0, SYMBOLS), slice(SYMBOLS, SYMBOLS + 3), slice(SYMBOLS + 3, SYMBOLS + 3 + STATES)
    wire(head.v, (written, at.to_symbol, 1.0), (move, at.to_move, 1.0), (state, at.to_state, 1.0))
    wire(head.o, (at.next_symbol, written, 1.0), (at.next_move, move, 1.0), (at.next_state, state, 1.0))
    return head


class PromptedMachine(Construction):
    name = "prompted_machine"
    summary = "one decoder runs whatever Turing machine stands in its prompt, by writing down its steps"
    papers = ("ask-shall-given",)
    settings = {  # noqa: RUF012
        "bits": Setting(8, 1, 12, "the most bits of an input"),
        "inputs": Setting(10, 5, 1000, "how many inputs each program is tried on"),
        "seed": Setting(0, 0, 2**31, "the seed of the inputs"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Machine())

    def claims(self, settings: Settings) -> list[Claim]:
        draw, longest = random.Random(settings["seed"]), settings["bits"]
        inputs = [[draw.randrange(2) for _ in range(draw.randint(1, longest))] for _ in range(settings["inputs"])]
        stale = finished(Machine(late=0.0))
        return [
            *(
                Claim(
                    f"it runs the program {name!r}",
                    f"inputs of {len(inputs)} on which its steps are not the machine's",
                    _running(table, inputs),
                    most=0,
                )
                for name, table in PROGRAMS.items()
            ),
            Claim(
                "without a preference for the latest it cannot read what was overwritten",
                f"inputs of {len(inputs)} on which its steps are not those of 'flip'",
                lambda m: _running(FLIP, inputs)(stale),
                least=1,
                limit=True,
            ),
        ]


def interpreted(table: Table, bits: list[int], most: int) -> list[Step]:
    """The steps of the machine, on a tape that is a dictionary."""
    tape, place, state = dict(enumerate(bits)), 0, 0
    steps: list[Step] = []
    while len(steps) < most and state != HALT:
        symbol, move, state = table[state, tape.get(place, BLANK)]
        tape[place] = symbol
        place += move
        steps.append((symbol, move, state))
    return steps


def _running(table: Table, inputs: list[list[int]]) -> Callable[[nn.Module], float]:
    """Of a module: on how many inputs it goes other ways than the machine."""

    def wrong(module: nn.Module) -> float:
        most = [4 * len(bits) + 8 for bits in inputs]
        return sum(module(table, b, n) != interpreted(table, b, n) for b, n in zip(inputs, most, strict=True))

    return wrong
