"""A decoder that runs an automaton by writing its states down: one step of thought for every symbol read.

The text is BOS, n symbols and the first state; then the decoder writes state after state. One head that looks
everywhere alike gives the token at place t, after i states and j symbols, the numbers i/t, j/t and 1/t. With eps = 0

    LN(i/t, 1/t, -i/t, -1/t)          is a direction that depends on i alone (the layer-norm hash)

so that a second head, with the hash of i as its query and that of j as its key, finds symbol j = i. ReLU units
r(state + symbol - 1), one for each pair, look up the next state. Neighbouring hashes differ in their scores by
1 / (2 i^4) of the largest, so the scores are large, and the reach is that of the number format.

Paper: Merrill & Sabharwal 2023, "The Expressive Power of Transformers with Chain of Thought", arXiv 2310.07923 (states
as steps, layer-norm hash; the paper's own layers were not at hand, these are ours).
Differs from the paper: attention there is saturated; the previous state is the last token, so no head looks for it.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State
from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Block, Stream, finished, wire
from layersmith.ffn.mlp import MLP
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.norm.layer_norm import LayerNorm

SHARP = 1e13


class Decoder(nn.Module):
    """word (n,) int64 of symbols -> (n,) int64: the states after each, written one by one, from state 0.

    table  for every state the next one at each symbol
    """

    def __init__(self, table: list[list[int]]):
        super().__init__()
        states, symbols = len(table), len(table[0])
        self.symbols = symbols
        at = self.at = Stream(
            wanted=4, found=4, symbol=symbols, bos=1, state=states, states=1, seen=1, unit=1, read=symbols, next=states
        )
        self.count, self.norm = _uniform(at), LayerNorm(4, eps=0.0)
        self.find, self.look_up = _finder(at, symbols), _look_up(at, table)

    def forward(self, word: Tensor) -> Tensor:
        start = torch.tensor([self.symbols])
        ids, written = torch.cat((start, word, start + 1)), []
        held: list[State | None] = [None, None]
        for _ in range(len(word)):
            state, held = self._step(ids, held)
            written.append(state)
            ids = (self.symbols + 1 + state)[None]
        return torch.stack(written)

    def _step(self, ids: Tensor, held: list[State | None]) -> tuple[Tensor, list[State | None]]:
        """The state to be written after these tokens, and the caches of both heads."""
        at = self.at
        last = at.state.stop - at.symbol.start
        one_hot = F.one_hot(ids, last).to(self.norm.weight.dtype)
        x = F.pad(one_hot, (at.symbol.start, at.width - at.state.stop))[None]
        y, counted = self.count(x, held[0])
        x = x + y
        states, seen, unit = x[..., at.states], x[..., at.seen], x[..., at.unit]
        wanted = self.norm(torch.cat((states, unit, -states, -unit), -1))
        found = self.norm(torch.cat((seen, unit, -seen, -unit), -1))
        x = torch.cat((wanted, found, x[..., at.symbol.start :]), -1)
        y, looked = self.find(x, held[1])
        x = x + y
        return (x + self.look_up(x))[0, -1, at.next].argmax(), [counted, looked]


def _uniform(at: Stream) -> SoftmaxAttention:
    layer = SoftmaxAttention(at.width, 1, head_dim=3, causal=True)
    wire(layer.q)
    wire(layer.k)
    places = [slice(n, n + 1) for n in range(3)]
    kinds = (at.state, at.symbol, at.bos)
    counted = [(p, kind, torch.ones(1, kind.stop - kind.start)) for p, kind in zip(places, kinds, strict=True)]
    wire(layer.v, *counted)
    wire(layer.o, (at.states, places[0], 1.0), (at.seen, places[1], 1.0), (at.unit, places[2], 1.0))
    return layer


def _finder(at: Stream, symbols: int) -> SoftmaxAttention:
    layer = SoftmaxAttention(at.width, 1, head_dim=max(5, symbols), causal=True, scale=SHARP)
    four, bar, every = slice(0, 4), slice(4, 5), slice(0, symbols)
    barred = -torch.ones(1, at.state.stop - at.state.start)
    wire(layer.q, (four, at.wanted, 0.5), (bar, at.state, -barred))
    wire(layer.k, (four, at.found, 0.5), (bar, at.state, barred), (bar, at.bos, -1.0))
    wire(layer.v, (every, at.symbol, 1.0))
    wire(layer.o, (at.read, every, 1.0))
    return layer


def _look_up(at: Stream, table: list[list[int]]) -> MLP:
    states, symbols = len(table), len(table[0])
    ffn = MLP(at.width, states * symbols, act="relu")
    units = slice(0, states * symbols)
    target = F.one_hot(torch.tensor(table).flatten(), states).T.double()
    pairs: list[Block] = [
        (units, at.state, torch.eye(states).repeat_interleave(symbols, 0)),
        (units, at.read, torch.eye(symbols).repeat(states, 1)),
    ]
    wire(ffn.up, *pairs, bias=dict.fromkeys(range(states * symbols), -1.0))
    wire(ffn.down, (at.next, units, target))
    return ffn


class Automaton(Construction):
    name = "automaton"
    summary = "a decoder multiplies permutations, which one pass cannot, by writing the product down at every step"
    papers = ("expressive-power-transformers-chain-thought",)
    settings = {  # noqa: RUF012
        "things": Setting(5, 2, 6, "how many things are permuted: the states are their orders"),
        "n": Setting(300, 1, 1000, "the length of the words"),
        "seed": Setting(0, 0, 2**31, "the seed of the words"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Decoder(group(settings["things"])))

    def claims(self, settings: Settings) -> list[Claim]:
        draw, table = random.Random(settings["seed"]), group(settings["things"])
        word = [draw.randrange(2) for _ in range(max(settings["n"], 200))]
        return [
            Claim(
                f"it multiplies {settings['n']} permutations of {settings['things']} things",
                "wrong states among those written",
                lambda m: _errors(m, table, word[: settings["n"]]),
                most=0,
            ),
            Claim(
                "its feed-forward knows every move",
                f"wrong moves among {2 * len(table)}, one for each state and symbol",
                lambda m: _wrong_moves(m, table),
                most=0,
            ),
            Claim(
                "in float32 it loses its place",
                "wrong states among 200",
                lambda m: _errors(self.build(settings).float(), table, word[:200]),
                least=1,
                limit=True,
            ),
        ]


def group(things: int) -> list[list[int]]:
    """The orders of things, and where the two symbols take each: a swap of the first two, a turn of all."""
    orders = list(itertools.permutations(range(things)))
    number = {order: n for n, order in enumerate(orders)}
    return [[number[(o[1], o[0], *o[2:])], number[(*o[1:], o[0])]] for o in orders]


def _wrong_moves(module: Any, table: list[list[int]]) -> int:
    wrong = 0
    for state, moves in enumerate(table):
        for symbol, true in enumerate(moves):
            x = torch.zeros(module.at.width, dtype=torch.float64)
            x[module.at.state.start + state] = x[module.at.read.start + symbol] = 1.0
            wrong += int(module.look_up(x)[module.at.next].argmax()) != true
    return wrong


def _errors(module: nn.Module, table: list[list[int]], word: list[int]) -> int:
    state, wrong = 0, 0
    for symbol, written in zip(word, module(torch.tensor(word)).tolist(), strict=True):
        state = table[state][symbol]
        wrong += written != state
    return wrong
