"""Settings of tasks, checked: what is wrong and what to give instead, in one sentence."""

from __future__ import annotations


def whole(name: str, value: int, least: int, most: int | None = None) -> int:
    """The value, a whole number from `least` to `most`. ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        room = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise ValueError(f"{name}={value!r} cannot be used: give a whole number {room}.")
    return value


def number(name: str, value: float, least: float, most: float) -> float:
    """The value as a float, from `least` to `most`. ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name}={value!r} cannot be used: give a number from {least:g} to {most:g}.")
    return float(value)


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """The value, one of the known ones. ValueError otherwise."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown: give one of {', '.join(known)}.")
    return value


def flag(name: str, value: bool) -> bool:
    """The value, True or False. ValueError otherwise."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} cannot be used: give True or False.")
    return value
