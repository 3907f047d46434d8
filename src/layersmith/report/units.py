"""Numbers as a reader wants them: rounded, with their unit, "–" where there is none."""

from __future__ import annotations

EMPTY = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def significant(value: float | None, digits: int = 3) -> str:
    """0.0213 -> "0.0213"; 0.000004 -> "4·10⁻⁶"; 1234.5 -> "1234"."""
    if value is None:
        return EMPTY
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if power < -4 or power > 6:
        return f"{_trim(mantissa)}·10{str(power).translate(_SUPERSCRIPT)}"
    return f"{value:.{max(digits - 1 - power, 0)}f}"


def tick(value: float) -> str:
    """A round value beside an axis, as short as it can be: 0.001, 0.3, 20."""
    return _trim(significant(round(value, 12), 2)) if 1e-4 <= abs(value) < 1e6 else significant(value, 1)


def divergence(value: float | None) -> str:
    """Nats or a relative error: two significant digits, which is what a few thousand held-out tokens support."""
    return significant(value, 2)


def ratio(value: float | None) -> str:
    """0.742 -> "0.74×"."""
    return EMPTY if value is None else f"{value:.2f}×"


def bound(value: float | None) -> str:
    """A budget as it was asked for, with two decimals at least: 0.6 -> "0.60×", 0.745 -> "0.745×"."""
    return EMPTY if value is None else f"{value:.2f}×" if round(value, 2) == value else f"{value:g}×"


def apart(a: float, b: float, digits: int = 2) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart: (0.6004, 0.6) -> ("0.6004", "0.6000")."""
    while f"{a:.{digits}f}" == f"{b:.{digits}f}" and a != b and digits < 9:
        digits += 1
    return f"{a:.{digits}f}", f"{b:.{digits}f}"


def against(share: float | None, bound: float | None, digits: int = 2) -> str:
    """A share; one that is over its bound with digits enough not to read like it: (0.6004, 0.6) -> "0.6004×"."""
    if share is None:
        return EMPTY
    if bound is None or share <= bound:
        return f"{share:.{digits}f}×"
    return f"{apart(share, bound, digits)[0]}×"


def percent(value: float | None) -> str:
    """0.961 -> "96.1 %"."""
    return EMPTY if value is None else f"{100 * value:.1f}\u00a0%"


def change(predicted: float | None, measured: float | None) -> str:
    """How far the measurement lies from the prediction: (0.020, 0.023) -> "+15 %"."""
    if predicted is None or measured is None or predicted <= 0:
        return EMPTY
    off = round(100 * (measured / predicted - 1))
    return f"{off:+d}\u00a0%".replace("-", "−") if off else "0\u00a0%"


def milliseconds(value: float | None) -> str:
    """0.0412 -> "0.0412 ms", 41.23 -> "41.2 ms", 1234 -> "1.23 s"."""
    if value is None:
        return EMPTY
    return f"{significant(value / 1000)}\u00a0s" if value >= 1000 else f"{significant(value)}\u00a0ms"


def between(low: float, high: float) -> str:
    """A range of milliseconds: (29.74, 31.2) -> "29.7 to 31.2 ms"."""
    return (
        f"{significant(low)} to {milliseconds(high)}" if high < 1000 else f"{milliseconds(low)} to {milliseconds(high)}"
    )


def count(value: float | None) -> str:
    """3932352 -> "3.93 M"."""
    return _scaled(value, ["", "k", "M", "G", "T", "P"], "")


def size(value: float | None) -> str:
    """Bytes in powers of 1000: 7864704 -> "7.86 MB"."""
    return _scaled(value, ["B", "kB", "MB", "GB", "TB", "PB"], "")


def flops(value: float | None) -> str:
    """4.1e9 -> "4.10 GFLOP"."""
    return _scaled(value, ["", "k", "M", "G", "T", "P"], "FLOP")


def seconds(value: float | None) -> str:
    """3.2 -> "3.2 s", 252 -> "4 min 12 s", 3780 -> "1 h 03 min"."""
    if value is None:
        return EMPTY
    if value < 60:
        return f"{value:.1f}\u00a0s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60:02d}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60:02d}\u00a0min"


def plural(number: int, thing: str) -> str:
    """(1, "site") -> "1 site", (3, "site") -> "3 sites"."""
    return f"{number}\u00a0{thing}" + ("" if number == 1 else "s")


def _scaled(value: float | None, prefixes: list[str], unit: str) -> str:
    if value is None:
        return EMPTY
    step = 0
    while abs(value) >= 999.5 and step < len(prefixes) - 1:
        value, step = value / 1000, step + 1
    digits = f"{value:.0f}" if step == 0 else significant(value)
    return f"{digits}\u00a0{prefixes[step]}{unit}".rstrip("\u00a0")


def _trim(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
