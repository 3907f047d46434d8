"""The healing curve: held-out divergence above, training loss below, over the same steps.

A filled mark is the state that was kept; the dashed line is the unhealed model's divergence. When healing was rolled
back, the kept state is step 0.
"""

from __future__ import annotations

from layersmith.report import units
from layersmith.report.markup import Markup, join
from layersmith.report.reading import Json, get, kept_of
from layersmith.report.svg import Scale, chart, line, marker, polyline, text, x_axis, y_axis

WIDTH, LEFT, RIGHT = 960, 62, 944


def draw(result: Json) -> Markup | None:
    """The chart, or None when there was no healing."""
    curve = get(result, "heal", "curve") or []
    if len(curve) < 2:
        return None
    steps = [p["step"] for p in curve]
    x = Scale(min(steps), max(steps), LEFT, RIGHT)
    upper = _series(curve, "heldout_divergence", x, (34, 190), "held-out divergence", "heldout")
    lower = _series(curve, "train_loss", x, (240, 320), "training loss", "train")
    return chart(
        WIDTH,
        370,
        "healing: held-out divergence and training loss by step",
        upper,
        lower,
        _marks(result, curve, x),
        x_axis(x, 320, [(v, f"{v:.0f}") for v in x.ticks(8)], "healing step"),
    )


def _scale(curve: list[Json], key: str, span: tuple[float, float]) -> Scale | None:
    values = [p[key] for p in curve if p.get(key) is not None]
    return Scale(0.0, 1.15 * max(values), span[1], span[0]) if values and max(values) > 0 else None


def _series(curve: list[Json], key: str, x: Scale, span: tuple[float, float], title: str, style: str) -> Markup | None:
    y = _scale(curve, key, span)
    if y is None:
        return None
    points = [(x(p["step"]), y(p[key])) for p in curve if p.get(key) is not None]
    ticks = [(v, units.tick(v)) for v in y.ticks(round((span[1] - span[0]) / 28))]
    return join([y_axis(y, LEFT, RIGHT, ticks, title), polyline(points, f"curve {style}")])


def _marks(result: Json, curve: list[Json], x: Scale) -> Markup | None:
    """A mark per held-out measurement, and the kept one with its name."""
    known = [p for p in curve if p.get("heldout_divergence") is not None]
    y = _scale(curve, "heldout_divergence", (34, 190))
    if y is None:
        return None
    rolled_back, kept = get(result, "heal", "rolled_back"), kept_of(result) or known[0]
    before = known[0]["heldout_divergence"]
    parts = [
        line(LEFT, y(before), RIGHT, y(before), "equal"),
        text(RIGHT, y(before) - 6, f"unhealed, divergence {units.divergence(before)}", "end", "tick"),
    ]
    for p in known:
        tip = f"step {p['step']}\nheld-out divergence {units.significant(p['heldout_divergence'])}"
        if p.get("train_loss") is not None:
            tip += f"\ntraining loss {units.significant(p['train_loss'])}"
        style = "mark measured" if p is kept else "mark predicted"
        parts.append(
            marker(
                "circle",
                x(p["step"]),
                y(p["heldout_divergence"]),
                9 if p is kept else 6,
                {"class": style, "data-tip": tip},
            )
        )
    words = "rolled back to the unhealed model" if rolled_back else f"kept: step {kept['step']}"
    at_end = x(kept["step"]) > (LEFT + RIGHT) / 2
    height = y(kept["heldout_divergence"])
    at = (x(kept["step"]) + (-8 if at_end else 8), height + (20 if height < 165 else -10))
    words = f"{words}, divergence {units.divergence(kept['heldout_divergence'])}"
    return join([*parts, text(*at, words, "end" if at_end else "start", "name accent")])
