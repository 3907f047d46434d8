"""What every chart is made of: scales with round ticks, marker shapes, text, and axes.

Coordinates are pixels of the chart's own view box. Colours are never written here: marks carry classes, and
`chart.css` gives them colours for light and dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from layersmith.report.markup import Attributes, Child, Markup, join, tag

#: Average width of a character relative to the font size; wide system fonts reach this, most stay below.
CHARACTER = 0.58
SHAPES = ("square", "up", "diamond", "down", "cross", "plus")


@dataclass(frozen=True)
class Scale:
    """Maps values in [low, high] to pixels [start, end]; values outside are moved to the nearer end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 6) -> list[float]:
        """Some `about` round values inside the range: 1-2-5 steps, or powers of ten with what fits between them."""
        if self.log:
            decades = math.log10(self.high / self.low)
            multiples = next((m for m in [(1, 2, 5), (1, 3)] if len(m) * decades <= about), (1,))
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [m * 10.0**p for p in powers for m in multiples]
        else:
            step = _round_step((self.high - self.low) / about)
            first = math.ceil(self.low / step - 1e-9)
            values = [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        slack = 1e-9 * abs(self.high)
        return [v for v in values if self.low - slack <= v <= self.high + slack]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def log_range(values: list[float], least: float) -> tuple[float, float]:
    """A range around positive values for a log axis: a little air, at least a decade, nothing under `least`."""
    positive = [v for v in values if v >= least]
    low, high = (min(positive), max(positive)) if positive else (least, 10 * least)
    low, high = low / 1.6, high * 1.6
    middle = math.sqrt(low * high)
    return (low, high) if high / low >= 10 else (middle / math.sqrt(10), middle * math.sqrt(10))


def chart(width: float, height: float, title: str, *children: Child) -> Markup:
    """An SVG of a natural size that shrinks a little on narrow screens and is scrolled beyond that."""
    attributes = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title, "class": "chart"}
    size = f"width:{width:.0f}px;max-width:100%;min-width:{0.75 * width:.0f}px"
    return tag("svg", attributes | {"style": size}, *children)


def panels(charts: list[Markup]) -> Markup:
    """Small charts side by side as far as there is room, each scrolling by itself where there is too little."""
    return tag("div", {"class": "panels"}, *[tag("div", {"class": "scroll"}, c) for c in charts])


def text(x: float, y: float, content: str, anchor: str = "start", style: str | None = None) -> Markup:
    """Text with its baseline at y; anchor start, middle or end."""
    return tag("text", {"x": x, "y": y, "text-anchor": anchor, "class": style}, content)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return tag("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": style})


def polyline(points: list[tuple[float, float]], style: str) -> Markup:
    return tag("polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points), "class": style})


def marker(shape: str, x: float, y: float, size: float, attributes: Attributes) -> Markup:
    """A mark of about `size` pixels across, centred at (x, y). Shapes: "circle" and those of `SHAPES`."""
    r = size / 2
    if shape == "circle":
        return tag("circle", {"cx": x, "cy": y, "r": r, **attributes})
    d, e, w = 1.15 * r, 1.3 * r, 0.38 * r  # half height of triangles, of diamonds; half the stroke width of crosses
    outlines = {
        "square": f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z",
        "up": f"M{x:.1f} {y - d:.1f}L{x + d:.1f} {y + r:.1f}H{x - d:.1f}z",
        "down": f"M{x:.1f} {y + d:.1f}L{x + d:.1f} {y - r:.1f}H{x - d:.1f}z",
        "diamond": f"M{x:.1f} {y - e:.1f}L{x + e:.1f} {y:.1f}L{x:.1f} {y + e:.1f}L{x - e:.1f} {y:.1f}z",
        "plus": _plus(x, y, d, w),
        "cross": _plus(x, y, d, w),
    }
    turned = f"rotate(45 {x:.1f} {y:.1f})" if shape == "cross" else None
    return tag("path", {"d": outlines[shape], "transform": turned, **attributes})


def _plus(x: float, y: float, d: float, w: float) -> str:
    arm, bar = d - w, 2 * w
    return (
        f"M{x - w:.1f} {y - d:.1f}h{bar:.1f}v{arm:.1f}h{arm:.1f}v{bar:.1f}h{-arm:.1f}v{arm:.1f}"
        f"h{-bar:.1f}v{-arm:.1f}h{-arm:.1f}v{-bar:.1f}h{arm:.1f}z"
    )


def text_width(content: str, font_size: float = 12) -> float:
    """An upper estimate of how wide a text is drawn, in pixels."""
    return CHARACTER * font_size * len(content)


def fitted(content: str, width: float, font_size: float = 12) -> str:
    """The text, cut with an ellipsis where it would be wider than `width`; "" where not even three letters fit."""
    room = int(width / (CHARACTER * font_size))
    if len(content) <= room:
        return content
    return content[: room - 1].rstrip() + "…" if room >= 4 else ""


def y_axis(scale: Scale, left: float, right: float, labels: list[tuple[float, str]], title: str) -> Markup:
    """Grid lines with labels at their left, and the title above the top one."""
    top = min(scale.start, scale.end)
    return join(
        [
            *[line(left, scale(v), right, scale(v), "grid") for v, _ in labels],
            *[text(left - 8, scale(v) + 4, label, "end", "tick") for v, label in labels],
            text(0, top - 12, title, "start", "axis"),
        ]
    )


def x_axis(scale: Scale, y: float, labels: list[tuple[float, str]], title: str) -> Markup:
    """The base line at y with ticks and labels under it, and the title under them."""
    return join(
        [
            line(scale.start, y, scale.end, y, "base"),
            *[line(scale(v), y, scale(v), y + 5, "base") for v, _ in labels],
            *[text(scale(v), y + 19, label, "middle", "tick") for v, label in labels],
            text((scale.start + scale.end) / 2, y + 39, title, "middle", "axis"),
        ]
    )
