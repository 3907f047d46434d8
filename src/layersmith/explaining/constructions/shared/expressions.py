"""Arithmetic expressions modulo a prime of one digit: drawn with their values, and read by recursive descent."""

from __future__ import annotations

import random


def combined(a: int, op: str, b: int, p: int) -> int:
    """a op b modulo the prime p."""
    return {"+": a + b, "-": a - b, "*": a * b, "/": a * pow(b, p - 2, p)}[op] % p


def drawn(draw: random.Random, operators: int, p: int) -> tuple[str, int, int]:
    """An expression with so many operators, its value, and how closely it binds: from 1, a sum, to 3, a number."""
    if operators == 0:
        number = draw.randrange(p)
        return str(number), number, 3
    left = draw.randrange(operators)
    (one, a, bound), (other, b, bound_too) = drawn(draw, left, p), drawn(draw, operators - 1 - left, p)
    op = draw.choice("+-*/" if b else "+-*")
    binds = 1 if op in "+-" else 2
    one = f"({one})" if bound < binds or draw.random() < 0.1 else one
    other = f"({other})" if bound_too <= binds or draw.random() < 0.1 else other
    return f"{one}{op}{other}", combined(a, op, b, p), binds


def evaluated(text: str, p: int) -> int:
    """The value of an expression, by recursive descent. ValueError for text that is none."""
    letters = [*text, "end"]

    def chain(ops: str) -> int:
        value = part(ops)
        while letters[0] in ops:
            op = letters.pop(0)
            value = combined(value, op, part(ops), p)
        return value

    def part(ops: str) -> int:
        if ops == "+-":
            return chain("*/")
        letter = letters.pop(0)
        if letter.isdigit():
            return int(letter)
        value = chain("+-") if letter == "(" else None
        if value is None or letters.pop(0) != ")":
            raise ValueError(f"{text!r} is no expression.")
        return value

    value = chain("+-")
    if letters != ["end"]:
        raise ValueError(f"{text!r} is no expression.")
    return value
