"""The marks of the Pareto chart: uniform single-method models, the searched front, the chosen model, others beside.

Single-method models and the chosen one return the names they would like beside them.
"""

from __future__ import annotations

from itertools import groupby
from math import dist
from typing import TYPE_CHECKING

from layersmith.report import units
from layersmith.report.drawing import SHAPES, Chart
from layersmith.report.labels import Name
from layersmith.report.pareto_frame import Frame
from layersmith.report.reading import Json, final_and_unhealed, get, label, methods, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The shape of models of other tools; no method has it.
BESIDE = "*"


def look(result: Json, method: str) -> tuple[str, str]:
    """Colour class and shape of a method: five colours times six shapes, thirty methods without a repeat."""
    index = methods(result).index(method)
    return f"c{index % 5}", SHAPES[index % 6]


def uniform(drawn: Chart, axes: Axes, frame: Frame) -> list[Name]:
    """Every single-method model, settings of one method joined; a healed one is joined to its unhealed self."""
    names = []
    for name, group in groupby(sorted(frame.result.get("uniform") or [], key=label), key=label):
        found = [(at, u) for u in group if (at := frame.at(u.get("measured"))) is not None]
        if not found:
            continue
        found.sort(key=lambda pair: pair[0])
        method = found[0][1].get("method", "?")
        style, shape = look(frame.result, method)
        if len(found) > 1:
            drawn.line(axes, [at for at, _ in found], f"joined {style}", series=method)
        healed = [(at, there, u) for at, u in found if (there := frame.at(u.get("healed"))) is not None]
        for at, there, _ in healed:
            drawn.line(axes, [at, there], f"heals {style}", series=method)
        tips = [frame.tip(f"uniform {named(u)}", u["measured"]) for _, u in found]
        drawn.marks(axes, [at for at, _ in found], shape, 9, f"mark uniform {style}", tips=tips, series=method)
        if healed:
            tips = [frame.tip(f"uniform {named(u)}, healed", u["healed"]) for _, _, u in healed]
            outlined = f"mark uniform healed {style}"
            drawn.marks(axes, [end for _, end, _ in healed], shape, 9, outlined, tips=tips, series=method)
        names.append(Name(found[0][0], name, f"name {style}"))
    return names


def front(drawn: Chart, axes: Axes, frame: Frame) -> None:
    """The searched solutions: predicted hollow, measured filled and joined, a hairline between the two."""
    found: dict[str, list[tuple[tuple[float, float], str]]] = {"predicted": [], "measured": []}
    for entry in frame.result.get("front") or []:
        budget = ", ".join(f"{k} {units.bound(v)}" for k, v in (entry.get("budget") or {}).items())
        ends = []
        for state in found:
            if (at := frame.at(entry.get(state))) is not None:
                found[state].append((at, frame.tip(f"searched for {budget}, {state}", entry[state])))
                ends.append(at)
        if len(ends) == 2:
            drawn.line(axes, ends, "pair", series="searched")
    if found["measured"]:
        drawn.line(axes, sorted(at for at, _ in found["measured"]), "front", series="searched")
    for (state, marks), size in zip(found.items(), (9, 10), strict=True):
        if marks:
            points, tips = zip(*marks, strict=True)
            drawn.marks(axes, points, "o", size, f"mark {state}", tips=tips, series="searched")


def beside(drawn: Chart, axes: Axes, frame: Frame) -> list[Name]:
    """Models of other tools, measured in a run of their own (`report/beside.py`)."""
    names = []
    for model in get(frame.result, "beside", "models") or []:
        if (at := frame.at(model.get("measured"))) is not None:
            tips = [frame.tip(f"beside: {model['name']}", model["measured"])]
            drawn.marks(axes, [at], BESIDE, 12, "mark beside", tips=tips, series="beside")
            names.append(Name(at, model["name"], "name beside"))
    return names


def chosen(drawn: Chart, axes: Axes, frame: Frame) -> list[Name]:
    """The chosen model: a ring with a full centre; where healing was kept, an arrow from the ring before it."""
    from matplotlib.patches import FancyArrowPatch

    final, unhealed = final_and_unhealed(frame.result)
    at, before = frame.at(final), frame.at(unhealed)
    if at and before and dist(*axes.transData.transform([at, before])) > 30:
        arrow = FancyArrowPatch(before, at, arrowstyle="-|>", mutation_scale=16, shrinkA=9, shrinkB=11, zorder=2.5)
        drawn.put(axes.add_patch(arrow), "arrow", series="searched")
    names = []
    for point, part, words in [(before, unhealed, "before healing"), (at, final, "healed" if before else "chosen")]:
        if point:
            tips = [frame.tip(f"chosen, {words}" if before else words, part)]
            drawn.marks(axes, [point], "o", 18, "mark ring", tips=tips, series="searched")
            if part is final:
                drawn.marks(axes, [point], "o", 10, "mark measured", tips=tips, series="searched")
            names.append(Name(point, words, "name accent", 12))
    return names
