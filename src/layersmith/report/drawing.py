"""Charts: matplotlib lays them out and draws them, the page gives them colours and tooltips.

    with chart("healing", 960, 370, "divergence by step") as drawn:
        axes = drawn.axes(62, 34, 944, 320)
        scale(axes, "y", (0.0, 1.0), units.tick)
        drawn.marks(axes, [(1, 0.5)], "o", 9, "mark measured", tips=["step 1"])
        return drawn.svg()

A unit of a figure is a pixel. Colours, line widths and fonts are never set here: an artist that is `put` carries
classes, `chart.css` says what they look like in light and dark, and what was not put (backgrounds, frames) is left out
of the SVG. The same result gives the same bytes. matplotlib is imported when something is drawn, so that quick answers
of the command line stay quick.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from layersmith.report.markup import Markup, clean, tag

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

DOTS = 72  # an inch, in SVG as matplotlib writes it: one dot is one pixel of the view box

#: What decides where things stand, on top of matplotlib's defaults; a user's own matplotlibrc takes no part.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib and is wide: what fits in it fits in what a reader has
    "font.size": 12,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "layersmith",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelpad": 6,
    "xtick.major.size": 5,
    "xtick.major.pad": 5,
    "ytick.major.size": 0,
    "ytick.major.pad": 8,
}
SHAPES = ("s", "^", "D", "v", "X", "P")

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"

Point = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """What an artist carries on the page: classes, a tooltip per mark, the series it is singled out with."""

    style: str
    tips: Iterator[str]
    series: str | None


@contextmanager
def chart(name: str, width: float, height: float, title: str) -> Iterator[Chart]:
    """A figure to draw on. `name` is unique on a page; `title` is what someone hears who does not see it."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of characters that DejaVu lacks; a reader's font has them
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield Chart(name, width, height, title)


class Chart:
    """A matplotlib figure, and what its artists carry on the page."""

    def __init__(self, name: str, width: float, height: float, title: str):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.name, self.width, self.height, self.title = name, width, height, title
        self.figure = Figure(figsize=(width / DOTS, height / DOTS), dpi=DOTS)
        FigureCanvasAgg(self.figure)  # knows how wide a text is
        self.marked: list[tuple[Axes, Point, float]] = []  # where marks stand, and how large they are
        self._looks: dict[str, Look] = {}

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Axes with these edges, in pixels from the upper left corner."""
        w, h = self.width, self.height
        return self.figure.add_axes((left / w, 1 - bottom / h, (right - left) / w, (bottom - top) / h))

    def put(self, artist: Artist, style: str, tips: Sequence[str] = (), series: str | None = None) -> None:
        """Show an artist, with these classes."""
        gid = f"put-{len(self._looks)}"
        artist.set_gid(gid)
        self._looks[gid] = Look(style, iter(tips), series)

    def line(self, axes: Axes, points: Sequence[Point], style: str, series: str | None = None) -> None:
        """Points joined by straight lines."""
        self.put(axes.plot(*zip(*points, strict=True), color="k", clip_on=False)[0], style, series=series)

    def marks(
        self,
        axes: Axes,
        points: Sequence[Point],
        shape: str,
        size: float,
        style: str,
        *,
        tips: Sequence[str] = (),
        series: str | None = None,
    ) -> None:
        """A mark of `size` pixels at every point; `shape` is a marker of matplotlib's."""
        places = zip(*points, strict=True)
        (drawn,) = axes.plot(
            *places, marker=shape, markersize=size, linestyle="none", color="k", zorder=3, clip_on=False
        )
        self.put(drawn, style, tips, series)
        self.marked += [(axes, point, size) for point in points]

    def text(self, x: float, y: float, words: str, style: str, anchor: str = "left") -> None:
        """Words on a baseline, in pixels from the upper left corner."""
        at = (x / self.width, 1 - y / self.height)
        self.put(self.figure.text(*at, clean(words), ha=anchor, va="baseline"), style)

    def svg(self, style: str = "chart") -> Markup:
        """An inline SVG of a natural size; a chart shrinks a little on narrow screens and is scrolled beyond that."""
        for axes in self.figure.axes:
            self._put_axis(axes)
        written = io.StringIO()
        self.figure.savefig(written, format="svg", metadata={"Date": None})
        shapes: dict[str, str] = {}
        drawn = list(self._leaves(ElementTree.fromstring(written.getvalue()), None, shapes))
        used = "".join(drawn)
        ids = {f"{self.name}-{old}": d for old, d in shapes.items() if f'"#{self.name}-{old}"' in used}
        defs = tag("defs", {}, *[tag("path", {"id": new, "d": d}) for new, d in ids.items()]) if ids else None
        attributes = {
            "viewBox": f"0 0 {self.width:g} {self.height:g}",
            "role": "img",
            "aria-label": self.title,
            "class": style,
            "style": f"width:{self.width:.0f}px;max-width:100%;min-width:{0.75 * self.width:.0f}px",
        }
        return tag("svg", attributes, defs, *drawn)

    def _put_axis(self, axes: Axes) -> None:
        """Grid lines and labels at the left, the base line with its ticks, and the title under them."""
        for tick in axes.yaxis.get_major_ticks():
            self.put(tick.gridline, "grid")
            self.put(tick.label1, "tick")
        if axes.xaxis.get_visible():
            self.put(axes.spines["bottom"], "base")
            self.put(axes.xaxis.label, "axis")
            for tick in axes.xaxis.get_major_ticks():
                self.put(tick.tick1line, "base")
                self.put(tick.label1, "tick")

    def _leaves(self, parent: ElementTree.Element, look: Look | None, shapes: dict[str, str]) -> Iterator[Markup]:
        """What is really drawn, in order and without the groups around it; `shapes` collects what marks refer to."""
        for element in parent:
            kind, mine = element.tag.removeprefix(_SVG), self._looks.get(element.get("id", ""), look)
            if kind == "g":
                yield from self._leaves(element, mine, shapes)
            elif kind == "defs":
                found = element.findall(f"{_SVG}path")
                shapes |= {path.get("id", ""): _short(path.get("d", "")) for path in found}
            elif mine is not None:
                carried = {"class": mine.style, "data-series": mine.series}
                if kind == "use":
                    carried |= {"href": f"#{self.name}-{element.get(_HREF, '')[1:]}", "data-tip": next(mine.tips, None)}
                if kind == "text":
                    anchor = re.search(r"text-anchor: (\w+)", element.get("style", ""))
                    carried["text-anchor"] = anchor[1] if anchor else None
                places = {key: _short(v) for key in ("x", "y", "d") if (v := element.get(key)) is not None}
                yield tag(kind, {**places, **carried}, element.text if kind == "text" else None)


def scale(
    axes: Axes,
    direction: str,
    bounds: tuple[float, float],
    write: Callable[[float], str],
    *,
    about: int = 6,
    log: bool = False,
    whole: bool = False,
) -> None:
    """Give one of the axes ("x", "y") its range, and some `about` round ticks, whole ones if so said."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axis = axes.xaxis if direction == "x" else axes.yaxis
    axes.set(**{f"{direction}scale": "log" if log else "linear", f"{direction}lim": bounds})
    axis.set_minor_locator(NullLocator())
    if log:
        decades = math.log10(bounds[1] / bounds[0])
        multiples = next((m for m in ((1, 2, 5), (1, 3)) if len(m) * decades <= about), (1,))
        axis.set_major_locator(LogLocator(subs=multiples, numticks=about))
    else:
        axis.set_major_locator(MaxNLocator(about, steps=[1, 2, 5, 10], integer=whole))
    axis.set_major_formatter(lambda value, _: write(value))


def log_range(values: Sequence[float], least: float) -> tuple[float, float]:
    """A range around positive values for a log axis: a little air, at least a decade, nothing under `least`."""
    positive = [v for v in values if v >= least]
    low, high = (min(positive) / 1.6, max(positive) * 1.6) if positive else (least, 10 * least)
    middle = math.sqrt(low * high)
    return (low, high) if high / low >= 10 else (middle / math.sqrt(10), middle * math.sqrt(10))


def within(value: float, bounds: tuple[float, float]) -> float:
    """The value, or the nearer of the bounds."""
    return min(max(value, bounds[0]), bounds[1])


def panels(charts: Sequence[Markup]) -> Markup:
    """Small charts side by side as far as there is room, each scrolling by itself where there is too little."""
    return tag("div", {"class": "panels"}, *[tag("div", {"class": "scroll"}, c) for c in charts])


def keys(name: str, entries: Sequence[tuple[str, float, str, str]]) -> Markup:
    """What marks stand for, as a line of marks (shape, size, classes) with words."""
    return tag("p", {"class": "keys"}, *[_key(f"{name}-{index}", *entry) for index, entry in enumerate(entries)])


def _key(name: str, shape: str, size: float, style: str, words: str) -> Markup:
    from matplotlib.lines import Line2D

    with chart(name, 18, 18, words) as drawn:
        mark = Line2D([0.5], [0.5], linestyle="none", marker=shape, markersize=size, color="k")
        drawn.figure.add_artist(mark)
        drawn.put(mark, style)
        sign = drawn.svg("sign")
    return tag("span", {"class": "key"}, sign, words)


def _short(numbers: str) -> str:
    """Coordinates to a hundredth of a pixel, on one line."""
    rounded = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), numbers)
    return re.sub(r"\s*([MLCQzZ])\s*", r"\1", rounded).replace("\n", " ").strip()
