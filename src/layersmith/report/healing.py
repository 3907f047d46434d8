"""The healing curve: held-out divergence above, training loss below, over the same steps.

A filled mark is the state that was kept; the dashed line is the unhealed model's divergence. When healing was rolled
back, the kept state is step 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layersmith.report import units
from layersmith.report.drawing import Chart, chart, scale
from layersmith.report.labels import Name, place
from layersmith.report.markup import Markup
from layersmith.report.reading import Json, get, kept_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, LEFT, RIGHT = 960, 62, 944


def draw(result: Json) -> Markup | None:
    """The chart, or None when there was no healing."""
    curve = get(result, "heal", "curve") or []
    if len(curve) < 2:
        return None
    with chart("healing", WIDTH, 370, "healing: held-out divergence and training loss by step") as drawn:
        upper = _series(drawn, curve, "heldout_divergence", (34, 190), "held-out divergence", "curve heldout")
        lower = _series(drawn, curve, "train_loss", (240, 320), "training loss", "curve train")
        if upper is not None:
            _marks(drawn, upper, result, curve)
            upper.xaxis.set_visible(lower is None)
        return drawn.svg() if drawn.figure.axes else None


def _series(
    drawn: Chart, curve: list[Json], key: str, span: tuple[float, float], title: str, style: str
) -> Axes | None:
    """One quantity over the steps, or None where nothing of it is known."""
    points = [(p["step"], p[key]) for p in curve if p.get(key) is not None]
    most = max((value for _, value in points), default=0.0)
    if most <= 0:
        return None
    axes = drawn.axes(LEFT, span[0], RIGHT, span[1])
    steps = [p["step"] for p in curve]
    scale(axes, "x", (min(steps), max(steps)), "{:.0f}".format, about=8)
    scale(axes, "y", (0.0, 1.15 * most), units.tick, about=round((span[1] - span[0]) / 28))
    axes.set_xlabel("healing step")
    drawn.text(0, span[0] - 12, title, "axis")
    drawn.line(axes, points, style)
    return axes


def _marks(drawn: Chart, axes: Axes, result: Json, curve: list[Json]) -> None:
    """A mark per held-out measurement, and the kept one with its name."""
    known = [p for p in curve if p.get("heldout_divergence") is not None]
    kept, before = kept_of(result) or known[0], known[0]["heldout_divergence"]
    drawn.put(axes.axhline(before), "equal")
    words = f"unhealed, divergence {units.divergence(before)}"
    drawn.put(axes.text(axes.get_xlim()[1], before, words, ha="right", va="bottom"), "tick")
    for style, size, points in [
        ("mark predicted", 6, [p for p in known if p is not kept]),
        ("mark measured", 9, [kept]),
    ]:
        if points:
            at = [(p["step"], p["heldout_divergence"]) for p in points]
            drawn.marks(axes, at, "o", size, style, tips=[_tip(p) for p in points])
    words = "rolled back to the unhealed model" if get(result, "heal", "rolled_back") else f"kept: step {kept['step']}"
    words = f"{words}, divergence {units.divergence(kept['heldout_divergence'])}"
    place(drawn, axes, [Name((kept["step"], kept["heldout_divergence"]), words, "name accent", 10)])


def _tip(point: Json) -> str:
    tip = f"step {point['step']}\nheld-out divergence {units.significant(point['heldout_divergence'])}"
    return tip if point.get("train_loss") is None else f"{tip}\ntraining loss {units.significant(point['train_loss'])}"
