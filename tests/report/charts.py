"""A chart read back: what carries which classes, and where it stands in the coordinates that the axes show."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from xml.etree import ElementTree

Element = ElementTree.Element


def elements(drawn: str, *classes: str) -> list[Element]:
    """Everything that carries all of these classes, in the order in which it is drawn."""
    return [e for e in ElementTree.fromstring(drawn).iter() if set(classes) <= set(e.get("class", "").split())]


def marks(drawn: str, *classes: str) -> list[Element]:
    """Marks with a tooltip; those of a legend have none."""
    return [e for e in elements(drawn, "mark", *classes) if e.get("data-tip")]


def numbers(element: Element) -> list[float]:
    """The coordinates of a path."""
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", element.get("d", ""))]


def value(label: str) -> float:
    """What a label of an axis says: "0.75×", "3·10⁻⁶", "20.0k"."""
    label = label.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")).replace("·10", "e").rstrip("×")
    prefix = {"k": 1e3, "M": 1e6, "G": 1e9}.get(label[-1:])
    return prefix * float(label[:-1]) if prefix else float(label)


def ticks(drawn: str) -> tuple[dict[float, float], dict[float, float]]:
    """What the labels of the axes say -> pixels: across and up. A label follows its tick or its grid line."""
    across, up, before = {}, {}, None
    for element in ElementTree.fromstring(drawn).iter():
        if element.get("class") == "tick" and before is not None and element.text != "⋮":
            if before.get("class") == "base" and before.tag == "use":
                across[value(element.text)] = float(before.get("x"))
            elif before.get("class") == "grid":
                up[value(element.text)] = numbers(before)[1]
        before = element
    return across, up


def scale(found: dict[float, float], log: bool = False) -> Callable[[float], float]:
    """Pixels -> values, from the first and the last tick; the others have to agree with them."""
    write = math.log10 if log else float
    places = sorted((pixel, write(v)) for v, pixel in found.items() if v > 0 or not log)
    (start, low), (end, high) = places[0], places[-1]
    for pixel, known in places:
        assert abs(low + (pixel - start) * (high - low) / (end - start) - known) <= 0.004 * abs(high - low)

    def read(pixel: float) -> float:
        at = low + (pixel - start) * (high - low) / (end - start)
        return 10**at if log else at

    return read
