"""A discrete transformer program as plain data, what it answers by Python alone, and the text that says the same.

The text is made to be read, and to be run by whoever wants to: `python program.py` reads one JSON list of tokens a line
and writes what the program answers. Nothing here runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from layersmith.explaining.programs.network import Head, ProgramNetwork

Value = str | int


@dataclass(frozen=True)
class Look:
    """One head: at each position it looks for a `key` that is what `wanted` has for its `query`, and takes `value`."""

    name: str
    query: str
    key: str
    value: str
    wanted: dict[Value, Value]


@dataclass(frozen=True)
class Program:
    """
    looks    in their order
    answers  what may be answered
    weights  variable -> value -> a whole number for each answer; the largest sum is the answer
    """

    looks: list[Look]
    answers: list[str]
    weights: dict[str, dict[Value, list[int]]]

    def run(self, tokens: Sequence[str]) -> list[str]:
        """The answer at each position."""
        found: dict[str, list[Value]] = {"tokens": list(tokens), "positions": list(range(len(tokens)))}
        for look in self.looks:
            places = [_place(look.wanted.get(q), found[look.key], i) for i, q in enumerate(found[look.query])]
            found[look.name] = [found[look.value][place] for place in places]
        answers = []
        for i in range(len(tokens)):
            rows = [table[found[name][i]] for name, table in self.weights.items()]
            sums = [sum(column) for column in zip(*rows, strict=True)]
            answers.append(self.answers[sums.index(max(sums))])
        return answers

    def text(self) -> str:
        """Python source that does what `run` does."""
        lines = [HEAD, *(_look_text(look) for look in self.looks)]
        lines.append(f"    sums = [[0] * {len(self.answers)} for _ in tokens]")
        for name, table in self.weights.items():
            lines.append(f"    weigh({name}, {{")
            lines += [f"        {value!r}: {row}," for value, row in table.items()]
            lines.append("    }, sums)")
        return "\n".join([*lines, TAIL.replace("ANSWERS", repr(self.answers))])


def program_of(network: ProgramNetwork, tokens: Sequence[str], answers: Sequence[str]) -> Program:
    """The program that a discrete network is; `tokens` and `answers` are what its numbers stand for."""
    values: dict[str, list[Value]] = {"tokens": list(tokens), "positions": list(range(network.positions))}
    looks = []
    for depth, layer in enumerate(network.heads(), start=1):
        before = list(values)
        for number, head in enumerate(layer, start=1):
            look = _look(head, f"head_{depth}_{number}", before, values)
            looks.append(look)
            values[look.name] = values[look.value]
    scaled = network.output[0].round().long().view(len(values), network.k, -1).tolist()
    weights = {
        name: {value: scaled[place][index] for index, value in enumerate(own)}
        for place, (name, own) in enumerate(values.items())
    }
    return Program(looks, list(answers), weights)


def _look(head: Head, name: str, before: list[str], values: dict[str, list[Value]]) -> Look:
    query, key, value = (before[_only(gate[0])] for gate in (head.query, head.key, head.value))
    wanted = {}
    for index, own in enumerate(values[query]):
        other = _only(head.predicate[0, index])
        if other < len(values[key]):  # otherwise a value that no key ever has
            wanted[own] = values[key][other]
    return Look(name, query, key, value, wanted)


def _only(row: Tensor) -> int:
    return int(row.argmax())


def _place(wanted: Value | None, keys: list[Value], i: int) -> int:
    """The nearest earlier position with that key; i itself after all others, the first where there is none."""
    places = [j for j in range(i + 1) if keys[j] == wanted]
    earlier = [j for j in places if j < i]
    return earlier[-1] if earlier else i if places else 0


def _look_text(look: Look) -> str:
    wanted = ", ".join(f"{own!r}: {other!r}" for own, other in look.wanted.items())
    return (
        f"    # {look.name} looks from its {look.query} for {look.key}, and takes {look.value}\n"
        f"    {look.name} = look({look.query}, {look.key}, {look.value}, {{{wanted}}})\n"
    )


HEAD = '''"""A trained transformer as a program, printed by layersmith. JSON lists of tokens in, answers out."""

import json
import sys


def look(queries, keys, values, wanted):
    """For each query the value at the nearest earlier position that has the wanted key; at its own position after
    all others; at the first one for want of any."""
    found = []
    for i, query in enumerate(queries):
        places = [j for j in range(i + 1) if keys[j] == wanted.get(query)]
        earlier = [j for j in places if j < i]
        found.append(values[earlier[-1] if earlier else i if places else 0])
    return found


def weigh(variable, weights, sums):
    """Add what each value of the variable says for each answer."""
    for i, value in enumerate(variable):
        sums[i] = [a + b for a, b in zip(sums[i], weights[value])]


def run(tokens):
    """The answer at each position."""
    positions = list(range(len(tokens)))
'''

TAIL = """    answers = ANSWERS
    return [answers[row.index(max(row))] for row in sums]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))))
"""
