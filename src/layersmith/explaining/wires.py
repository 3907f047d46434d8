"""A diagram of the model: every sublayer as a box on the wires of its input, one wire for each axis of the array.

On one batch, the shapes of what every sublayer reads and writes are recorded, and it is measured along which axes it
works (`measures/axes.py`): a feed-forward does the same at every token, attention does not, a causal one reads earlier
tokens only. A box stands on the wires of axes along which the sublayer works, all other wires pass by; layers that are
alike are drawn once.

Paper: "Neural Circuit Diagrams: Robust Diagrams for the Communication, Implementation, and Analysis of Deep Learning
Architectures", whose diagrams show axes, broadcasting and sizes.
Differs from the paper: a sublayer is one box, its operations are not drawn; what is drawn was measured on the model.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layersmith.anatomy import Site
from layersmith.anatomy.replay import first_tensor
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.measures.axes import reach
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.divergence import run

Step = dict[str, Any]
#: What the axes of an array of so many dimensions are called.
AXES = {2: ("rows", "channels"), 3: ("batch", "tokens", "channels"), 4: ("batch", "axis 1", "axis 2", "channels")}


class Wires(Survey):
    name = "wires"
    summary = "A diagram of the model: which axes every sublayer works along, and the sizes on the wires between them."
    papers = ("neural-circuit-diagrams",)
    settings: ClassVar[Settings] = {"tokens": 16}

    def check(self, settings: Settings) -> None:
        if settings["tokens"] < 2:
            raise UserError(f"The setting tokens must be at least 2, not {settings['tokens']}: an axis needs places.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        sites = [site for site in subject.sites if site.kind != "block"]
        steps = subject.workspace.load_json("wires")
        if steps is None:
            steps = _watched(subject, sites, _two_rows(subject, settings["tokens"]))
            subject.workspace.save_json("wires", steps)
        if not steps:
            raise UserError("None of the sites asked for was run on an array of 2 to 4 axes: there is nothing to draw.")
        return {"steps": steps, "sections": _sections(folded(steps))}


def _two_rows(subject: Subject, tokens: int) -> dict[str, Tensor]:
    """Two examples without padding, cut to so many tokens where they have tokens."""
    # Rows of one batch are equally long; one row alone is taken twice.
    batch = next((each for each in subject.judge if all(len(value) > 1 for value in each.values())), subject.judge[0])
    two = {name: value[[0, min(1, len(value) - 1)]] for name, value in batch.items()}
    mask = two.get("attention_mask")
    if mask is not None and not bool(mask[:, :tokens].all()):
        two["attention_mask"] = torch.ones_like(mask)
    ids = two.get("input_ids", two.get("decoder_input_ids"))
    if ids is None or "pixel_values" in two:
        return two
    return {n: v[:, :tokens] if v.ndim > 1 and v.shape[1] == ids.shape[1] else v for n, v in two.items()}


def _watched(subject: Subject, sites: list[Site], batch: dict[str, Tensor]) -> list[Step]:
    """A step a site, in the order of the sites; each is looked at inside the model's own call of it."""
    looks = [_Look(site, [subject.model.get_submodule(path) for path in site.modules]) for site in sites]
    try:
        with evaluating(subject.model):
            run(subject.model, batch)
    finally:
        for look in looks:
            look.end()
    subject.tell("looking at sublayers", 1, 1)
    return [look.step for look in looks if look.step is not None]


class _Look:
    """Hooks on a sublayer that look at its first call: what it reads and writes, and what moves in it."""

    def __init__(self, site: Site, modules: list[nn.Module]):
        self.site, self.modules = site, modules
        self.step: Step | None = None
        self.given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.hooks: list[Any] = [
            modules[0].register_forward_pre_hook(self._enters, with_kwargs=True),
            modules[-1].register_forward_hook(self._leaves),
        ]

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def _enters(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.given = (args, kwargs)

    def _leaves(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.given is None:
            return
        self.end()  # the sublayer is called again below
        x, y = first_tensor([*self.given[0], *self.given[1].values()]), _tensor(output)
        if x.ndim not in AXES:
            return
        known = len(self.modules) == 1 or torch.equal(self._again(x, x), y)
        self.step = {
            "site": self.site.name,
            "part": type(self.modules[0]).__name__,
            "reads": list(x.shape),
            "writes": list(y.shape),
            "params": sum(p.numel() for part in self.modules for p in part.parameters()),
            "axes": {
                name: reach(lambda z: self._again(x, z), x, axis) if known else None
                for axis, name in enumerate(AXES[x.ndim])
            },
        }

    def _again(self, x: Tensor, z: Tensor) -> Tensor:
        """What the sublayer makes of z in place of x."""
        assert self.given is not None, "a sublayer is called again after it was called"
        args, kwargs = self.given
        first, *others = self.modules
        swapped = {name: z if value is x else value for name, value in kwargs.items()}
        z = _tensor(first(*(z if arg is x else arg for arg in args), **swapped))
        for module in others:
            z = _tensor(module(z))
        return z


def _tensor(output: Any) -> Tensor:
    return first_tensor([output] if isinstance(output, Tensor) else [*output])


def folded(steps: list[Step]) -> list[Step]:
    """The steps, those of layers in a row that are alike once: "layers.0.attn" of thirty becomes "layers.0-29.attn"."""
    groups: list[tuple[str, list[Step]]] = []
    for step in steps:
        layer = step["site"].rpartition(".")[0]
        if not groups or groups[-1][0] != layer or not layer:
            groups.append((layer, []))
        groups[-1][1].append(step)
    kept: list[tuple[str, str, list[Step]]] = []
    for layer, group in groups:
        if kept and _alike(kept[-1][2], group):
            kept[-1] = (kept[-1][0], layer, kept[-1][2])
        else:
            kept.append((layer, layer, group))
    return [{**step, "site": _renamed(step["site"], first, last)} for first, last, group in kept for step in group]


def _alike(one: list[Step], other: list[Step]) -> bool:
    told = [[{**step, "site": step["site"].rpartition(".")[2]} for step in group] for group in (one, other)]
    return told[0] == told[1]


def _renamed(site: str, first: str, last: str) -> str:
    if first == last:
        return site
    return f"{first}-{last.rpartition('.')[2]}.{site.rpartition('.')[2]}"


def _sections(steps: list[Step]) -> list[Section]:
    axes = list(dict.fromkeys(axis for step in steps for axis in step["axes"]))
    rows = [
        [
            step["site"],
            step["part"],
            *(" x ".join(map(str, step[key])) for key in ("reads", "writes")),
            *(step["axes"].get(axis) or "–" for axis in axes),
        ]
        for step in steps
    ]
    text = (
        "A box stands on the wires of the axes along which a sublayer works; over the others it does the same at every "
        "place. Arrows: only what is earlier is read. Sizes are those of two examples. The last columns of the table "
        "say which places of an axis are read: none but the same one, earlier ones, or all of them."
    )
    listed = table("The wires", ["", "module", "reads", "writes", *axes], rows, text)
    return [{**listed, "wires": {"axes": axes, "steps": steps}}]
